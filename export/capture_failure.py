"""Why a model could not be traced, in the words of its signature."""

from __future__ import annotations

import re
import traceback

from export.capture_roads import DERIVED
from export.errors import UserError
from export.every_size import SizeNotTakenError
from export.explanations import explain as explain_text
from export.roads import NoRoadError, RoadLeftOutError
from export.signature import Signature


def explain(none: NoRoadError, signature: Signature) -> str:
    """The size at which a program that leaves all sizes open fails; where none could be made, why not."""
    for refusal in none.refusals:
        if isinstance(refusal.error, SizeNotTakenError) and refusal.road != DERIVED:
            return (
                f"torch.export makes no program for all declared sizes: {refusal.reason}; narrow the range in the "
                "signature, or change the model"
            )
    error = none.refusals[0].error
    return str(error) if isinstance(error, UserError) else _explain(error, signature)


def _explain(error: Exception, signature: Signature) -> str:
    """PyTorch's constraint violation in the words of the signature."""
    text = str(error).split("\nThe error above occurred")[0].strip()
    for name in signature.ranges:
        match = re.search(
            rf"\b{re.escape(name)}\b[^\n]*specialized[^\n]*\((\d+)\)|^\s*{re.escape(name)} = (\d+)\s*$",
            text,
            re.MULTILINE,
        )
        if match:
            size = match.group(1) or match.group(2)
            return (
                f"the dynamic dimension {name!r} is declared, but torch.export fixes it to {size}: make it static in "
                "the signature, narrow its range, or change the model (TORCH_LOGS=+dynamic tells where)"
            )
        if match := re.search(rf"^\s*{re.escape(name)} = (.*_{re.escape(name)}\b.*)$", text, re.MULTILINE):
            return (
                f"the dynamic dimension {name!r} is declared, but torch.export takes only sizes of the form "
                f"{match.group(1).replace(f'_{name}', 'n')}: make it static in the signature, narrow its range, or "
                "change the model (TORCH_LOGS=+dynamic tells where)"
            )
    explanation = explain_text("".join(traceback.format_exception(error)))
    if explanation is not None:
        return f"the model cannot be traced by torch.export: {explanation.sentence}"
    said = text if isinstance(error, RoadLeftOutError) else f"{type(error).__name__}: {text}"
    return f"the model cannot be traced by torch.export: {said}"
