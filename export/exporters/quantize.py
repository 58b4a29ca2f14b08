"""What the int8 backends share: calibration data, and the order not to pass off as quantised what is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from export.errors import UserError

if TYPE_CHECKING:
    from export.backend import BuildInput

INT8 = "int8"
CALIBRATION_ROWS = 512
"""Rows of the training data that ranges are taken from; more change them little and take longer."""
_CALL_ROWS = 32


def calibration_calls(source: BuildInput) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Calls of real training rows, named inputs each.

    Raises:
        UserError: the recipe has no data: ranges of made-up inputs would be made up too.
    """
    from safetensors.numpy import load_file

    if source.calibration is None:
        raise UserError("int8 takes its ranges from training data, and the recipe has none: give it data")
    rows = load_file(source.calibration)
    count = min(len(array) for array in rows.values())
    step = _CALL_ROWS if source.signature.batch else 1
    for start in range(0, count, step):
        yield {spec.name: rows[spec.name][start : start + step] for spec in source.signature.inputs}


def rows_count(calls: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> int:
    """Rows of all calls together."""
    return sum(len(next(iter(call.values()))) for call in calls)


def refuse_unquantized(quantized_count: int, what: str) -> None:
    """Raise where nothing was quantised, which the tools do not say.

    Raises:
        UserError: ``quantized_count`` is 0.
    """
    if quantized_count == 0:
        raise UserError(f"nothing in the model was quantised: it has no {what}")
