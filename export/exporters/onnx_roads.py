"""The roads to an ONNX file: from the program by dynamo's exporter, from the module scripted, or traced, by the older.

Whichever is taken, the file bears the signature's names and sizes, and was loaded and called in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.arrays import to_numpy
from export.backend import LoadOptions
from export.errors import UserError
from export.roads import Kept, Road, first_that_works
from export.runtimes.onnxruntime import OnnxRuntimeOptions, OnnxSession

if TYPE_CHECKING:
    import torch

    from export.backend import BuildInput

PROGRAM, SCRIPT, TRACE = "program", "script", "trace"
PRODUCTS = "program with products for Fourier transforms"
"""For a program that has such transforms of lengths that are powers of two."""


def export_by_roads(source: BuildInput, path: Path, names: Sequence[str]) -> Kept[dict[str, str]]:
    """The file by the first of the roads ``names`` that works; ``built`` are its exporter's facts.

    Raises:
        NoRoadError: none works.
    """
    import torch

    from export.flat import FlatModule
    from export.trial import Trial

    trial = Trial(FlatModule(source.module(), source.signature).eval(), source.signature, source.seed)

    def check(_: dict[str, str]) -> None:
        options = LoadOptions(threads_count=torch.get_num_threads())
        trial.check(_in_numpy(OnnxSession(path, source.signature, options, OnnxRuntimeOptions())))

    known = {road.name: road for road in _roads(source, path)}
    return first_that_works((known[name] for name in names if name != PRODUCTS or _has_transforms(source)), check)


def _roads(source: BuildInput, path: Path) -> tuple[Road[dict[str, str]], ...]:
    from export.exporters.onnx import export_script, export_trace

    return (
        Road(PROGRAM, partial(_from_program, source, path), trust="fallback"),
        Road(PRODUCTS, partial(_from_program, source, path, products=True)),
        Road(SCRIPT, partial(export_script, source, path), trust="fallback"),
        Road(TRACE, partial(export_trace, source, path)),
    )


def _has_transforms(source: BuildInput) -> bool:
    """Whether a program was traced that has Fourier transforms."""
    if source.program_failure is not None:
        return False
    from export.exporters.fourier import operators
    from export.program import load_exported

    return any("fft" in name for name in operators(load_exported(source.program_file)))


def _from_program(source: BuildInput, path: Path, *, products: bool = False) -> dict[str, str]:
    if source.program_failure is not None:
        raise UserError(source.program_failure)
    from export.exporters.onnx import export_program

    return export_program(source, path, products=products)


def _in_numpy(session: OnnxSession) -> Any:
    """The session fed with NumPy arrays, as a server feeds it."""

    def answer(tensors: Sequence[torch.Tensor]) -> Any:
        return session([to_numpy(tensor) for tensor in tensors])

    return answer
