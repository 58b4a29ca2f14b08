"""The rounds of one batch size in one process: how many are timed, and which of them a neighbour spoilt.

A sample is spoilt where threads of this process waited for a core meanwhile: what was timed then is the neighbour. Its
round is timed again, within a budget. A candidate that is hit whatever is done (two threads beside a neighbour on two
cores) says so, and no ratio is taken of it (bench/verdict/spoilt.py).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.stats.enough import is_enough
from bench.timing.block import Block

_THREADS = Path("/proc/self/task")
_SLICE_S = 0.003
"""How long the system lets a neighbour have a core before it may be taken back, where it does not tell how long."""
_LARGEST_SHARE = 0.05
"""The share of a sample's time from which on, waited for a core by all threads together, it is spoilt."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What one candidate's turn in a round gave."""

    bound_s: float
    queued_s: float | None
    checked_s: float | None
    calls_s: list[float]
    spoilt: bool


Round = Mapping[str, Timed]
"""By the candidate's label."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many rounds are wanted."""

    rounds_count: int
    """At most, repeated ones not counted."""
    largest_error: float | None
    """Fewer are enough when the standard error of every candidate's median is no larger, a share; None: never."""

    def timed(self, take: Callable[[], Round]) -> list[Round]:
        """As many rounds as are wanted, in the order in which they were taken.

        Half as many again are taken where some were spoilt; of what is still spoilt then, the rounds that were least.
        """
        taken: list[Round] = []
        whole: list[Round] = []
        while len(taken) < self.rounds_count + self.rounds_count // 2:
            taken.append(take())
            if not any(turn.spoilt for turn in taken[-1].values()):
                whole.append(taken[-1])
                if len(whole) == self.rounds_count or self._is_enough(whole):
                    return whole
        by_harm = sorted(range(len(taken)), key=lambda index: sum(turn.spoilt for turn in taken[index].values()))
        return [taken[index] for index in sorted(by_harm[: self.rounds_count])]

    def _is_enough(self, rounds: list[Round]) -> bool:
        if self.largest_error is None:
            return False
        return is_enough([[taken[label].bound_s for taken in rounds] for label in rounds[0]], self.largest_error)


def timed(bound: Block, queued: Block | None = None, checked: Block | None = None, calls_count: int = 0) -> Timed:
    """A candidate's turn: a block of each kind, and so many single calls."""
    before_s = waited_s()
    bound_s = bound.sample_s()
    lost_s = waited_s() - before_s
    return Timed(
        bound_s=bound_s,
        queued_s=queued.sample_s() if queued is not None else None,
        checked_s=checked.sample_s() if checked is not None else None,
        calls_s=bound.calls_s(calls_count),
        spoilt=is_spoilt(lost_s, bound_s * bound.calls_count),
    )


def waited_s() -> float:
    """How long threads of this process have waited for a core that others had, all together; Linux tells in
    nanoseconds (``schedstat``), other systems how often one was taken from them, Windows nothing.
    """
    with contextlib.suppress(OSError, IndexError):
        return sum(int(_read(thread / "schedstat").split()[1]) for thread in _THREADS.iterdir()) / 1e9
    if sys.platform == "win32":
        return 0.0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw * _SLICE_S


def _read(path: Path) -> str:
    """What a thread's file says; nothing waited where the thread has ended since it was listed."""
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        if not (_THREADS / str(os.getpid()) / path.name).exists():
            raise  # this system has no such file
        return "0 0 0"


def is_spoilt(lost_s: float, duration_s: float) -> bool:
    """Whether neighbours had too large a share of a sample."""
    return lost_s > _LARGEST_SHARE * duration_s
