"""Roads: a model that one exporter cannot do is tried by the others, and the first that works is kept.

An exporter may also end its process. Whoever started that can read from a ``Trail`` on which road it was, and start
another process that leaves it out. So can whoever judged what a road built, and refused it.

An exporter may refuse a model, and it may also accept it and build what cannot be loaded, raises when called, or holds
only the branch and the sizes of its example. What a road built is therefore loaded and compared with the model in a
trial (export/trial.py) before it is kept. The trial is coarse: it chooses, and parity judges what was chosen; what
parity refuses is built by the roads that are left (pipeline/stages/roads.py).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Generic, Literal, TypeVar

from export.errors import TorchstoneError, UserError, causes
from export.explanations import explain
from export.files import no_space

T = TypeVar("T")
Trust = Literal["full", "fallback", "none"]
"""``full``: kept without a trial; ``fallback``: it holds the model's control flow, so that the first of these is kept
for parity to judge where no road answers as the model does; ``none``: kept only if it answers as the model does."""
_REASON_CHARACTERS, _ROW_CHARACTERS = 300, 120
ROAD = "road"
"""The fact by which road an artifact, or a program, was made."""
_REFUSED = "not_by_"


class RoadLeftOutError(TorchstoneError):
    """A road that ended an earlier process, or whose work was refused, and is left out in this one."""


@dataclass(frozen=True, kw_only=True)
class Trail:
    """Where a process leaves word of the road that it is on, and the roads that it leaves out."""

    file: Path
    left_out: Mapping[str, str]
    """By road: why."""

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While in here, ``first_that_works`` keeps to it; the file stays only if the process ends in here."""
        before = _trail.set(self)
        try:
            yield
        finally:
            _trail.reset(before)
            self.file.unlink(missing_ok=True)


_trail: ContextVar[Trail | None] = ContextVar("_trail", default=None)


class AnswersOtherwiseError(Exception):
    """What was built loads and answers, with the right shapes and dtypes, but other values than the model's."""


@dataclass(frozen=True)
class Road(Generic[T]):
    """One way to build."""

    name: str
    build: Callable[[], T]
    """Raises whatever its exporter raises; building again replaces what an earlier road left."""
    trust: Trust = "none"


@dataclass(frozen=True)
class Refusal:
    """A road that was not taken, and why."""

    road: str
    error: Exception

    @property
    def reason(self) -> str:
        """The first cause, in one line."""
        first = causes(self.error)[-1]
        explanation = explain("".join(traceback.format_exception(self.error)))
        if explanation is not None:
            return " ".join(explanation.sentence.split())[:_REASON_CHARACTERS]
        lines = [line.strip() for line in str(first).splitlines() if line.strip()]
        words = lines[0].rstrip(":") if lines else "no message"
        spoken = isinstance(first, TorchstoneError | AnswersOtherwiseError)
        return (words if spoken else f"{type(first).__name__}: {words}")[:_REASON_CHARACTERS]


class NoRoadError(UserError):
    """No road works; ``refusals`` has one entry for each, in the order in which they were tried."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        reasons = "; ".join(f"not by {refusal.road}: {refusal.reason}" for refusal in refusals)
        super().__init__(f"this model cannot be exported so: {reasons}")
        self.refusals = tuple(refusals)


@dataclass(frozen=True)
class Kept(Generic[T]):
    """What the road that was taken built."""

    road: str
    built: T
    refusals: tuple[Refusal, ...] = ()
    """What the roads before it said; and itself, where none answers as the model does."""

    @property
    def facts(self) -> dict[str, str]:
        """The road, and what each other said, for a record."""
        return {ROAD: self.road} | {f"{_REFUSED}{refusal.road}": refusal.reason for refusal in self.refusals}


def first_that_works(roads: Iterable[Road[T]], trial: Callable[[T], None]) -> Kept[T]:
    """Build by each road in turn until what it built passes the trial, which raises where it does not.

    Raises:
        NoRoadError: there is none.
        OSError: the disk is full, which no other road would survive.
    """
    refusals: list[Refusal] = []
    fallback: Road[T] | None = None
    for road in roads:
        try:
            built = _followed(road)
            if road.trust != "full":
                trial(built)
        except Exception as error:
            if no_space(error):
                raise
            traceback.print_exc()  # the exporter's own text, for the log
            refusals.append(Refusal(road.name, error))
            if fallback is None and road.trust == "fallback" and isinstance(error, AnswersOtherwiseError):
                fallback = road
            continue
        return Kept(road.name, built, tuple(refusals))
    if fallback is None:
        raise NoRoadError(refusals)
    return Kept(fallback.name, _followed(fallback), tuple(refusals))


def _followed(road: Road[T]) -> T:
    """What a road builds, unless it is left out."""
    trail = _trail.get()
    if trail is not None:
        if road.name in trail.left_out:
            raise RoadLeftOutError(trail.left_out[road.name])
        trail.file.write_text(road.name, encoding="utf-8")
    return road.build()


def detour(facts: Mapping[str, str]) -> str | None:
    """``by trace, not by script (RuntimeError: ...)``; None where the first road was taken, or there was only one."""
    refused = [
        f"not by {name.removeprefix(_REFUSED)} ({shorten(reason, _ROW_CHARACTERS, placeholder='...')})"
        for name, reason in facts.items()
        if name.startswith(_REFUSED)
    ]
    return ", ".join([f"by {facts[ROAD]}", *refused]) if refused else None
