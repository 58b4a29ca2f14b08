"""The calls that take a live model with examples through the pipeline."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from torch import nn

from bench.parity.spec import ParitySpec
from bench.timing.spec import BenchSpec
from bench.verdict.limits import Limits
from export.device import choose
from export.errors import UserError
from export.foreign.files import row_name
from export.foreign.original import OnnxOriginal
from export.registry import BASELINE, STANDARD
from export.signature import SizeRange
from export.worker import ProcessLimits
from pipeline.all import story
from pipeline.cli import Stage
from pipeline.console import Console
from pipeline.live.examples import describe
from pipeline.live.given import given
from pipeline.live.module import unwrapped
from pipeline.recipe import Recipe
from pipeline.run import open_run
from torchstone.result import Result, result_of

_SHIPPED = "onnx"


class Options(TypedDict, total=False):
    """What ``check`` and ``export`` take besides the model and its examples."""

    name: str
    """The folder under ``out``; the class of the model if not given."""
    ranges: Mapping[str, SizeRange | tuple[int, int]]
    """Sizes that a dynamic dimension takes, by its name."""
    backends: tuple[str, ...]
    """What to export to; ``eager`` is the baseline."""
    artifacts: Mapping[str, str | Path]
    """Files that other tools made of the same model, judged beside the rest, by the names of their rows."""
    required: tuple[str, ...]
    """Rows that must turn out good for the result to be good; ``onnx`` if not given."""
    out: str | Path
    """Where runs are kept; ``artifacts`` if not given."""
    device: str
    """``cpu``, ``cuda``, ``cuda:1``; ``auto``, if not given, takes CUDA where it is usable."""
    seed: int
    """Governs every drawn input."""
    quiet: bool
    """Print nothing while it works."""
    parity: ParitySpec
    """How thoroughly it is proved."""
    bench: BenchSpec
    """How thoroughly it is measured."""
    limits: Limits
    """What an artifact must keep to ship."""
    process: ProcessLimits
    """What each build and each measurement may use."""


def check(model: nn.Module, examples: Any, *, dynamic: Any = None, **options: Unpack[Options]) -> Result:
    """Export a model every way, prove each export right, measure it, and say which one to ship.

    Args:
        model: The module with its weights, on any device; it is left as it is, and judged in eval mode on a copy.
        examples: A tensor, a tuple of the arguments of ``forward``, or a mapping of keyword arguments; a list holds
            several such calls. Their rows are used as real rows; integers are drawn within what is seen.
        dynamic: Which dimensions move: ``{"ids": ("batch", "length")}``, or ``torch.export``'s ``dynamic_shapes``.
            Left out: those in which several examples differ, else dimension 0, if all inputs share it.
        **options: See ``Options``.

    Returns:
        Rows by backend, the winner, and where everything lies. What was assumed is printed, and in the result.

    Raises:
        UserError: examples that do not fit the model, or a model that no other process can have.
    """
    return _run(model, examples, dynamic, options)


def export(model: nn.Module, examples: Any, *, dynamic: Any = None, **options: Unpack[Options]) -> Result:
    """As ``check``, but nothing is measured: every export is built and proved right, or refused with the reason.

    Raises:
        UserError: as ``check``.
    """
    return _run(model, examples, dynamic, options, only="parity")


def compare(
    original: str | Path,
    files: str | Path | Mapping[str, str | Path],
    examples: Any = None,
    *,
    dynamic: Any = None,
    only: Literal["parity"] | None = None,
    **options: Unpack[Options],
) -> Result:
    """Judge files that were made from an ONNX file, without the model that it was made from.

    The original in float64 is the truth; its own float32, run node by node as it is written, is the row ``eager``, the
    unit of errors and times. As ONNX Runtime runs it by default it is the row ``original``.

    Args:
        original: The ONNX file.
        files: What was made from it, by the names of the rows; the row of a lone one is called as the file.
        examples: As of ``check``, by the names of the file's inputs; drawn if left out, where no input is of integers.
        dynamic: As of ``check``; the dimensions that the file leaves open if left out.
        only: ``parity``: nothing is measured.
        **options: See ``Options``; ``required`` are all files if not given.

    Raises:
        UserError: a file that is damaged, or another model's; examples that do not fit.
    """
    module = OnnxOriginal(Path(original))
    judged = files if isinstance(files, Mapping) else {row_name(files): files}
    settings: Options = {"name": row_name(original), "backends": (BASELINE,), "required": tuple(judged)}
    settings.update(options)
    settings["artifacts"] = {"original": original, **judged}
    said = f"eager is {Path(original).name}, run node by node as it is written: the unit of errors and times"
    calls = module.drawn(options.get("seed", 0)) if examples is None else module.named(examples)
    return _run(module, calls, module.dynamic if dynamic is None else dynamic, settings, only=only, said=said)


def _run(
    model: nn.Module, examples: Any, dynamic: Any, options: Options, *, only: Stage | None = None, said: str = ""
) -> Result:
    """``said`` comes before what was assumed."""
    if not isinstance(model, nn.Module):
        raise UserError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    module = unwrapped(model)
    described = describe(module, examples, dynamic, options.get("ranges"))
    assumptions = (*([said] if said else []), *described.assumptions)
    backends = tuple(options.get("backends", STANDARD))
    recipe = Recipe(
        name=options.get("name") or re.sub(r"\W", "", type(module).__name__).lower().lstrip("_") or "model",
        model=nn.Module,
        signature=described.signature,
        backends=backends,
        artifacts={name: Path(file) for name, file in options.get("artifacts", {}).items()},
        required=tuple(options.get("required", (_SHIPPED,) if _SHIPPED in backends else ())),
        seed=options.get("seed", 0),
        parity=options.get("parity", ParitySpec()),
        bench=options.get("bench", BenchSpec()),
        limits=options.get("limits", Limits()),
        process=options.get("process", ProcessLimits()),
    )
    out = Path(options.get("out", "artifacts"))
    live = given(module, recipe, described.rows, out)
    console = Console(quiet=options.get("quiet", False))
    for sentence in assumptions:
        console.stage("assumed", sentence)
    with open_run(live, choose(options.get("device", "auto")).name, out, console) as run:
        console.say(f"{recipe.name} on {run.device}, in {run.folder}")
        return result_of(run, story(run, only), assumptions)
