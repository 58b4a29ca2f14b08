"""Check a model without a recipe: export it every way, prove each export right, measure it, choose.

    torchstone check package.module:callable --inputs real.npz [options]
    torchstone check path/to/file.py:callable --inputs short.npz long.npz --dynamic ids:batch,length

TARGET is a module, or a function or class that is called without arguments and returns one. Its weights are its own,
or those of --weights. `torchstone check TARGET --help` lists every setting with its default; docs/check.md says what
is assumed of the inputs. Exit code 0: every required backend is good; 1: one is not; 2: usage or environment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from bench.parity.spec import ParitySpec
from bench.timing.spec import BenchSpec
from bench.verdict.limits import Limits
from export.errors import UserError
from export.worker import ProcessLimits
from pipeline.cli import GOOD, NOT_GOOD
from torchstone.commands.dimensions import parse_dynamic, parse_ranges

if TYPE_CHECKING:
    from torch import nn

    from torchstone.result import Result


@dataclass(frozen=True, kw_only=True)
class Options:
    """A model, examples of its inputs, and how thoroughly to look."""

    target: tyro.conf.Positional[str]
    """package.module:callable or path/to/file.py:callable."""
    inputs: tuple[Path, ...]
    """Example calls: .npz or .safetensors with a tensor for each parameter of forward, .npy with a lone one, .pt with
    plain tensors; several files are several calls."""
    weights: Path | None = None
    """A state dict as .safetensors, for a model that does not load its own."""
    dynamic: tuple[str, ...] = ()
    """Which dimensions move: ids:batch,length mask:batch,length; _ does not. If not given: those in which the
    examples differ, else dimension 0."""
    range: tuple[str, ...] = ()
    """Sizes that they take: length=1:512, or height=32:640:32 for multiples of 32."""
    backends: tuple[str, ...] | None = None
    """What to export to (`torchstone list`); the six standard ones if not given."""
    required: tuple[str, ...] | None = None
    """Backends that must turn out good; onnx if not given."""
    only: Literal["parity"] | None = None
    """Stop after this stage: nothing is measured, and nothing chosen."""
    name: str | None = None
    """The folder under --out; the model's class if not given."""
    out: Path = field(default=Path("artifacts"))
    """Where runs are kept."""
    device: str = "auto"
    """cpu, cuda, or one of several GPUs by its number: cuda:1; auto takes CUDA where it is usable."""
    seed: int = 0
    """Governs every drawn input, and what the model draws while it is built."""
    json: bool = False
    """Print the verdict as JSON, and nothing else; with --only parity the rows."""
    quiet: bool = False
    """Print nothing but errors."""
    parity: ParitySpec = field(default_factory=ParitySpec)
    """How thoroughly it is proved."""
    bench: BenchSpec = field(default_factory=BenchSpec)
    """How thoroughly it is measured."""
    limits: Limits = field(default_factory=Limits)
    """What an artifact must keep to ship."""
    process: ProcessLimits = field(default_factory=ProcessLimits)
    """What each build and each measurement may use."""


def main(arguments: Sequence[str], command: str = "torchstone check") -> int:
    """Build the model, read the examples, and check."""
    options = tyro.cli(
        Options, args=list(arguments), prog=command, description=__doc__,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff),
    )  # fmt: skip
    dynamic, keywords = parse_dynamic(options.dynamic), _keywords(options)
    from pipeline.process.guard import under_way
    from torchstone import api
    from torchstone.commands.inputs import read_calls

    if not options.inputs:
        raise UserError("--inputs must name at least one file of example calls, such as --inputs real.npz")
    calls = [call for file in options.inputs for call in read_calls(file)]
    with under_way(f"the model {options.target}", options.process):
        model = _model(options)
    run = api.export if options.only else api.check
    result = run(model, calls, dynamic=dynamic, **keywords)
    _show(result, options)
    return GOOD if result.good else NOT_GOOD


def _keywords(options: Options) -> Any:
    """The options that ``torchstone.check`` takes by the same names; those not given are left to it."""
    same = ("out", "device", "seed", "parity", "bench", "limits", "process")
    optional = {name: getattr(options, name) for name in ("backends", "required", "name")}
    return {
        **{name: getattr(options, name) for name in same},
        **{name: value for name, value in optional.items() if value is not None},
        "ranges": parse_ranges(options.range),
        "quiet": options.quiet or options.json,
    }


def _model(options: Options) -> nn.Module:
    from torchstone.commands.target import build_model, load_weights

    model = build_model(options.target, options.seed)
    if options.weights is not None:
        load_weights(model, options.weights)
    return model


def _show(result: Result, options: Options) -> None:
    """What a run prints at its end."""
    from bench.run_folder import RunFolder
    from pipeline.all import show
    from pipeline.console import Console

    console, files = Console(quiet=options.quiet, json=options.json), RunFolder(result.folder)
    if result.verdict is not None:
        show(console, files, result.verdict, files.bundle if result.good and files.bundle.exists() else None)
        return
    console.say(str(replace(result, assumptions=())))
    if options.json:
        print(json.dumps({"good": result.good, "folder": str(result.folder), "rows": _rows(result)}))


def _rows(result: Result) -> list[dict[str, Any]]:
    """Each row without figures, as JSON values."""
    return [
        {"name": row.name, "status": row.status, "reasons": row.reasons, "path": row.path and str(row.path)}
        for row in result
    ]
