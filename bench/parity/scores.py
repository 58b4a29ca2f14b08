"""The scores that a model chooses by, kept beside its answers: what an index is judged by that differs from float64's.

They are taken from the traced program, which runs once more in float64 and in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from torch.utils import _pytree as pytree

from bench.parity.cases import Values
from bench.parity.choice import ERRORS, Chosen, Ranked
from bench.parity.store import case_file, load_case, save_case
from export.arrays import to_numpy, to_torch
from export.choices import Choice, choices, moved
from export.float64 import Float64Program, Unguarded, to_float64
from export.program import load_exported, on_device

if TYPE_CHECKING:
    from bench.parity.oracle import Oracle

SCORES = "scores"
_MOST_SCORES = 1 << 24
"""Calls with more scores keep none: indices are then held to float64's own."""
_NAMES = ("scores", "lists", "tolerance", "several", "ordered", "open")


def keep_scores(oracle: Oracle, inputs: Path, scores: Path, count: int) -> str | None:
    """Write the scores of the first ``count`` cases, where outputs depend on choices; or say why there are none."""
    if oracle.program_file is None or oracle.failure:
        return None
    program = load_exported(oracle.program_file)
    known = choices(program.module().graph)
    if not known:
        return None
    wide = _WatchedFloat64(program)
    eager = _Watched(on_device(load_exported(oracle.program_file), oracle.device).module())
    for watched in (wide, eager):
        watched.watch(known)
    names = [spec.name for spec in oracle.signature.inputs]
    scores.mkdir()
    for index in range(count):
        tensors = [to_torch(array) for array in load_case(inputs, index, names).values()]
        try:
            with torch.inference_mode():
                outputs = pytree.tree_leaves(wide.run(*map(to_float64, tensors)))
                eager.run(*map(oracle.device.move, tensors))
        except Exception as error:  # noqa: BLE001 - a traced program refuses what its module answers in ways of its own
            return f"indices are held to float64's own: {type(error).__name__}: {error}"[:300]
        kept = _Kept(oracle.signature.output_names, [tuple(output.shape) for output in outputs])
        for choice in known:
            kept.add(choice, wide.scores[choice.scores], eager.scores[choice.scores], wide.lists[choice])
        save_case(scores, index, kept.arrays)
    return None


def load_chosen(scores: Path, index: int, output: str) -> Chosen | None:
    """What of an output in one case hangs on open choices; None if nothing does."""
    file = case_file(scores, index)
    if not file.exists():
        return None
    with safe_open(file, framework="numpy") as tensors:
        kept = set(tensors.keys())
        named = {name: tensors.get_tensor(f"{output}:{name}") for name in _NAMES if f"{output}:{name}" in kept}
    if not named:
        return None
    ranked = None
    if "scores" in named:
        ranked = Ranked(
            scores=named["scores"],
            lists=named["lists"],
            tolerance=float(named["tolerance"][0]),
            several=bool(named["several"][0]),
            ordered=bool(named["ordered"][0]),
        )
    return Chosen(ranked=ranked, open_rows=named.get("open"))


class _Watched(Unguarded):
    """Notes the scores that are chosen among, as they are when they are computed, and where indices into them go."""

    def watch(self, choices: tuple[Choice, ...]) -> None:
        """What to note from now on."""
        self.choices = choices

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of flat inputs; what was noted before is forgotten."""
        self.scores: dict[str, torch.Tensor] = {}
        self.lists: dict[Choice, dict[str, torch.Tensor]] = {choice: {} for choice in self.choices}
        return super().run(*args, **kwargs)

    def run_node(self, n: torch.fx.Node) -> Any:
        """One node, and what is noted of it."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        value = super().run_node(n)
        if any(n.name == choice.scores for choice in self.choices):
            self.scores[n.name] = value.clone()  # an operator in place may change it afterwards
        for choice, lists in self.lists.items():
            if n.name == choice.index:
                lists[n.name] = _numbered(self.scores[choice.scores], choice.dim, value)
            elif n.name in choice.places:
                lists[n.name] = moved(n, lists[n.all_input_nodes[0].name], args, kwargs)
        return value


class _WatchedFloat64(_Watched, Float64Program):
    """The same in float64."""


class _Kept:
    """What is kept of the choices in one call, by output."""

    def __init__(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> None:
        self._names, self._shapes = names, shapes
        self.arrays: dict[str, Values] = {}

    def add(self, choice: Choice, wide: torch.Tensor, eager: torch.Tensor, lists: dict[str, torch.Tensor]) -> None:
        """Take in one choice: float64's and eager's scores, and the lists that the indices go into."""
        if wide.shape != eager.shape or wide.numel() > _MOST_SCORES or not wide.numel():
            return
        scores, of_eager = (_listed(tensor, choice.dim) for tensor in (wide, eager))
        error = _largest_error(scores, of_eager)
        if choice.stable and error == 0.0:
            return  # the order of equals is promised, and float32 knows which are
        rounding = torch.finfo(eager.dtype).eps if eager.is_floating_point() else 0.0
        tolerance = ERRORS * max(error, rounding * float(np.abs(scores[np.isfinite(scores)]).max(initial=0.0)))
        for number, place in choice.indices:
            self._put(number, "scores", scores)
            self._put(number, "lists", lists[place].numpy().astype(np.int32))
            self._put(number, "tolerance", np.array([tolerance]))
            self._put(number, "several", np.array([choice.several]))
            self._put(number, "ordered", np.array([choice.ordered]))
        picks_count = lists[choice.index].numel() // len(scores)
        if choice.rank is None:
            open_lists = _open_lists(scores if choice.largest else -scores, picks_count, tolerance)
        else:
            middle = (scores.shape[1] - 1) // 2
            open_lists = _open_ranks(scores, middle if choice.rank == "middle" else choice.rank, tolerance)
        for number in choice.dependent:
            rows = _open_rows(open_lists, wide.shape, choice.dim, self._shapes[number])
            before = self.arrays.get(self._key(number, "open"), np.zeros((), bool))
            self._put(number, "open", before | rows)

    def _put(self, number: int, name: str, array: Values) -> None:
        self.arrays[self._key(number, name)] = array

    def _key(self, number: int, name: str) -> str:
        return f"{self._names[number]}:{name}"


def _numbered(scores: torch.Tensor, dim: int | None, index: torch.Tensor) -> torch.Tensor:
    """For every index, the number of the list that it goes into."""
    if dim is None or not scores.dim():
        return torch.zeros(index.shape, dtype=torch.int64)
    lead = scores.movedim(dim, -1).shape[:-1]
    numbers = torch.arange(lead.numel()).reshape(lead)
    return numbers if index.dim() < scores.dim() else numbers.unsqueeze(dim).expand(index.shape)


def _listed(scores: torch.Tensor, dim: int | None) -> Values:
    """``(lists, candidates)``, in float64, which NumPy has of every dtype."""
    if dim is None or not scores.dim():
        return to_numpy(scores.reshape(1, -1).double())
    last = scores.movedim(dim, -1)
    return to_numpy(last.reshape(-1, last.shape[-1]).double())


def _largest_error(wide: Values, eager: Values) -> float:
    both = np.isfinite(wide) & np.isfinite(eager)
    return float(np.abs(eager[both] - wide[both]).max(initial=0.0))


def _open_lists(scores: Values, picks_count: int, tolerance: float) -> Values:
    """Lists whose first picks, the largest, could as well be others or in another order."""
    return _has_equals(np.sort(-scores, axis=1)[:, : picks_count + 1], tolerance)


def _open_ranks(scores: Values, rank: int, tolerance: float) -> Values:
    """Lists of which the value next to that of a rank could as well have it."""
    return _has_equals(np.sort(scores, axis=1)[:, max(rank - 1, 0) : rank + 2], tolerance)


def _has_equals(ascending: Values, tolerance: float) -> Values:
    """Lists in which a value and the next are equal, as far as float32 can tell."""
    with np.errstate(invalid="ignore"):  # two that are masked with -Inf
        near = (ascending[:, 1:] == ascending[:, :-1]) | (ascending[:, 1:] - ascending[:, :-1] <= tolerance)
    return np.asarray(near.any(1))


def _open_rows(open_lists: Values, scores: torch.Size, dim: int | None, output: tuple[int, ...]) -> Values:
    """The output's rows that an open list bears on: its own where rows are kept apart, else all."""
    if dim is not None and dim % max(len(scores), 1) and output and output[0] == scores[0]:
        return np.asarray(open_lists.reshape(scores[0], -1).any(1).reshape(-1, *[1] * (len(output) - 1)))
    return np.full([1] * len(output), bool(open_lists.any()))
