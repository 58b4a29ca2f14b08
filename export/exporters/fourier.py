"""Fourier transforms as products with their matrices, where ONNX Runtime's own operator is inexact or fails.

Its ``DFT`` takes a length that is no power of two for three transforms of powers of two (Bluestein's algorithm), with
several times PyTorch's error, and fails on some inverses of one-sided spectra. A product with the transform's matrix
in float64 is more exact than either; the matrix has the length squared elements. Of a power of two it has four times
PyTorch's error, too much only for a model that answers with little else: there parity chooses between the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_LONGEST = 1024
"""The matrix of a longer transform would be more than a runtime should hold; it stays a ``DFT``."""
_TURN = 6.2831854820251465
_REST_OF_TURN = -1.7484555314695172e-07
"""Two pi is their sum, each a float32."""
Size = Any
"""A whole number, or PyTorch's symbol of one."""


def with_matrices(program: ExportedProgram, *, powers_too: bool = False) -> ExportedProgram:
    """The program with its short transforms as products; the same one where it has none.

    ``powers_too``: those whose lengths are powers of two as well.
    """
    if not any("fft" in name for name in operators(program)):
        return program
    known = torch.export.default_decompositions()
    composed = {operator: how for operator, how in known.items() if "fft_" in operator.name()}  # fft_rfft, ...
    aten = torch.ops.aten
    products = {
        aten._fft_c2c.default: partial(_complex_to_complex, powers_too=powers_too),
        aten._fft_r2c.default: partial(_real_to_complex, powers_too=powers_too),
        aten._fft_c2r.default: _complex_to_real,
    }
    lowered: ExportedProgram = program.run_decompositions({**composed, **products})
    return lowered


def operators(program: ExportedProgram) -> set[str]:
    """The names of a program's operators, those inside control flow and blocks too; one in place has the other's."""
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    targets = {node.target for graph in graphs for node in graph.nodes}
    return {str(getattr(target, "_opname", target)).removesuffix("_") for target in targets}


def _complex_to_complex(x: Tensor, dims: Sequence[int], normalization: int, forward: bool, *, powers_too: bool) -> Any:
    """``aten._fft_c2c``."""
    if not _wanted(x, dims, powers_too):
        return NotImplemented
    real, imaginary = _transformed(_parts(x), dims, forward)
    return _joined(real, imaginary, x, _scale([x.shape[dim] for dim in dims], normalization))


def _real_to_complex(x: Tensor, dims: Sequence[int], normalization: int, onesided: bool, *, powers_too: bool) -> Any:
    """``aten._fft_r2c``: the last of the dimensions is the one that is halved."""
    if not _wanted(x, dims, powers_too):
        return NotImplemented
    *others, last = dims
    length = x.shape[last]
    cosines, sines = _matrix(length, length // 2 + 1 if onesided else length, length, x)
    signal = x.double().movedim(last, -1)
    first = ((signal @ cosines).movedim(-1, last), -(signal @ sines).movedim(-1, last))
    real, imaginary = _transformed(first, others, forward=True)
    return _joined(real, imaginary, x, _scale([x.shape[dim] for dim in dims], normalization))


def _complex_to_real(x: Tensor, dims: Sequence[int], normalization: int, length: Size) -> Any:
    """``aten._fft_c2r``: the last of the dimensions holds half of a symmetric spectrum."""
    if not _short(x, dims):
        return NotImplemented
    *others, last = dims
    real, imaginary = (part.movedim(last, -1) for part in _transformed(_parts(x), others, forward=False))
    half = length // 2 + 1
    cosines, sines = _matrix(half, length, length, real)
    places = torch.arange(half, device=x.device).unsqueeze(1)
    alone = (places == 0) | (2 * places == length)
    weight = torch.where(alone, 1.0, 2.0).double()  # the others stand for two
    signal = real[..., :half] @ (cosines * weight) - imaginary[..., :half] @ (sines * weight)
    scale = _scale([*(x.shape[dim] for dim in others), length], normalization)
    return (signal.movedim(-1, last) * scale).to(x.real.dtype)


def _transformed(parts: Sequence[Tensor], dims: Sequence[int], forward: bool) -> tuple[Tensor, Tensor]:
    """The real and the imaginary part, in float64, transformed along each dimension in turn."""
    real, imaginary = parts
    for dim in dims:
        length = real.shape[dim]
        cosines, sines = _matrix(length, length, length, real)
        sines = sines if forward else -sines
        a, b = real.movedim(dim, -1), imaginary.movedim(dim, -1)
        real, imaginary = (a @ cosines + b @ sines).movedim(-1, dim), (b @ cosines - a @ sines).movedim(-1, dim)
    return real, imaginary


def _matrix(rows: Size, columns: Size, length: Size, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of ``2 pi row column / length`` in float64, of what is left of whole turns."""
    row, column = torch.arange(rows, device=like.device), torch.arange(columns, device=like.device)
    turn = torch.full((), length, device=like.device)  # a tensor: the exporter takes no remainder by a size
    part = (row.unsqueeze(1) * column % turn).double() / turn
    return _sine(part + 0.25), _sine(part)  # ONNX Runtime has no cosine in float64


def _sine(part: Tensor) -> Tensor:
    """The sine of a part of a turn; the exporter writes numbers as float32, so a turn is the sum of two such."""
    return torch.sin(part * _TURN + part * _REST_OF_TURN)


def _parts(x: Tensor) -> tuple[Tensor, ...]:
    """The real and the imaginary part in float64."""
    return torch.view_as_real(x).double().unbind(-1)


def _joined(real: Tensor, imaginary: Tensor, like: Tensor, scale: Any) -> Tensor:
    """A complex tensor of the precision that ``like`` has."""
    return torch.view_as_complex((torch.stack((real, imaginary), -1) * scale).to(like.real.dtype))


def _scale(lengths: Sequence[Size], normalization: int) -> Any:
    """1, or one over the number of elements or its root."""
    count = math.prod(lengths, start=1.0)
    return (1.0, count**-0.5, 1 / count)[normalization]


def _wanted(x: Tensor, dims: Sequence[int], powers_too: bool) -> bool:
    """Whether a transform along some dimensions is to be a product."""
    return _short(x, dims) and (powers_too or not all(_is_power_of_two(x.shape[dim]) for dim in dims))


def _short(x: Tensor, dims: Sequence[int]) -> bool:
    return all(longest(x.shape[dim]) <= _LONGEST for dim in dims)


def longest(size: Size) -> float:
    """The most that a size may be."""
    if isinstance(size, int):
        return size
    return float(size.node.shape_env.bound_sympy(size.node.expr).upper)


def _is_power_of_two(size: Size) -> bool:
    return isinstance(size, int) and size & (size - 1) == 0
