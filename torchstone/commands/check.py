"""Check a model without a recipe: export it every way, prove each export right, measure it, choose.

    torchstone check package.module:callable --inputs real.npz [options]
    torchstone check path/to/file.py:callable --inputs short.npz long.npz --dynamic ids:batch,length
    torchstone check model.onnx --model package.module:callable --inputs real.npz
    torchstone check optimised.onnx --against original.onnx

TARGET is a module, or a function or class that is called without arguments and returns one; its weights are its own,
or those of --weights. Or it is a file that another tool exported, judged by the model or the ONNX file that it was made
from. `torchstone check TARGET --help` lists every setting with its default; docs/check.md says what is assumed of the
inputs. Exit code 0: every required row is good; 1: one is not; 2: usage or environment.
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
    """package.module:callable or path/to/file.py:callable; or a file that was exported: .onnx, .pt2, .pt, .xml."""
    inputs: tuple[Path, ...] = ()
    """Example calls: .npz or .safetensors with a tensor for each parameter of forward, .npy with a lone one, .pt with
    plain tensors; several files are several calls. For --against they are drawn if not given, where all are floats."""
    model: str | None = None
    """The model that the file was made from: package.module:callable or path/to/file.py:callable."""
    against: Path | None = None
    """The ONNX file that the file was made from, in the place of a model."""
    artifacts: tuple[str, ...] = ()
    """More files that others exported, by the names of their rows: mine=model.onnx old=v1.pt2."""
    weights: Path | None = None
    """A state dict as .safetensors, for a model that does not load its own."""
    dynamic: tuple[str, ...] = ()
    """Which dimensions move: ids:batch,length mask:batch,length; _ does not. If not given: those in which the
    examples differ, else dimension 0."""
    range: tuple[str, ...] = ()
    """Sizes that they take: length=1:512, or height=32:640:32 for multiples of 32."""
    backends: tuple[str, ...] | None = None
    """What to export to (`torchstone list`); if not given the six standard ones, for a file the baseline alone."""
    required: tuple[str, ...] | None = None
    """Rows that must turn out good; onnx if not given, for files all of them."""
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
    result = _against(options) if options.against is not None else _of_model(options)
    _show(result, options)
    return GOOD if result.good else NOT_GOOD


def _against(options: Options) -> Result:
    """What was made from an ONNX file, held to that file."""
    from torchstone import api

    if options.model is not None or options.weights is not None:
        raise UserError("--against takes the place of a model: leave --model and --weights out")
    assert options.against is not None
    if not options.against.is_file():
        raise UserError(f"there is no file {options.against}: --against takes the ONNX file that others were made from")
    return api.compare(
        options.against, _files(options), _calls(options) or None,
        dynamic=parse_dynamic(options.dynamic), only=options.only, **_keywords(options),
    )  # fmt: skip


def _of_model(options: Options) -> Result:
    """A model, and what was made from it."""
    from export import registry
    from pipeline.process.guard import under_way
    from torchstone import api

    files, keywords = _files(options), _keywords(options)
    if is_file := ":" not in options.target:
        if options.model is None:
            raise UserError(
                f"{options.target} is judged by what it was made from: --model package.module:callable, or "
                "--against original.onnx"
            )
        keywords = {"backends": (registry.BASELINE,), "required": tuple(files)} | keywords
    elif options.model is not None:
        raise UserError(f"TARGET is a model already, {options.target}: leave --model out, or name a file as TARGET")
    calls = _calls(options)
    if not calls:
        raise UserError("--inputs must name at least one file of example calls, such as --inputs real.npz")
    target = str(options.model) if is_file else options.target
    with under_way(f"the model {target}", options.process):
        model = _model(target, options)
    run = api.export if options.only else api.check
    return run(model, calls, dynamic=parse_dynamic(options.dynamic), artifacts=files, **keywords)


def _calls(options: Options) -> list[Any]:
    from torchstone.commands.inputs import read_calls

    return [call for file in options.inputs for call in read_calls(file)]


def _files(options: Options) -> dict[str, Path]:
    """The files that others exported, by the names of their rows; that of TARGET is called as the file.

    Raises:
        UserError: an entry of --artifacts without a name.
    """
    from export.foreign.files import row_name

    files = {} if ":" in options.target else {row_name(options.target): Path(options.target)}
    for entry in options.artifacts:
        name, equals, file = entry.partition("=")
        if not equals or not name or not file:
            raise UserError(f"--artifacts takes NAME=FILE, such as mine=model.onnx, got {entry!r}")
        files[name] = Path(file)
    return files


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


def _model(target: str, options: Options) -> nn.Module:
    from torchstone.commands.target import build_model, load_weights

    model = build_model(target, options.seed)
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
