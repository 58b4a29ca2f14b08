"""The state of the GPU while something was measured on it: clocks, what held them down, power, heat, other processes.

Read through NVML between the timed parts, never within them; nothing is set.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

import psutil

from export.gpus.nvml import Board, GpuFacts

_SM_CLOCK = 1
"""NVML's numbers of the multiprocessors' clock and of the chip's sensor."""
_CHIP_SENSOR = 0
_ASKED_FOR = frozenset({"clocks set by the user", "sync boost", "clocks of the display"})
"""Reasons of a lower clock that somebody wants: fixed clocks are what steady figures are taken at."""


@dataclass(frozen=True, kw_only=True)
class GpuConditions:
    """One process's GPU; whatever NVML does not tell is None."""

    facts: GpuFacts | None
    unread: str | None
    """Why NVML tells nothing at all."""
    sm_clock_start_mhz: int | None = None
    """The multiprocessors' clock after the first batch size: an idle GPU clocks down."""
    sm_clock_end_mhz: int | None = None
    """The same after the last work."""
    sm_clock_highest_mhz: int | None = None
    """What the board can do."""
    throttles: tuple[str, ...] | None = None
    """What held the clocks down, at any look."""
    power_watts: float | None = None
    """The largest draw that was seen."""
    temperature_celsius: int | None = None
    """The highest that was seen."""
    foreign_processes_count: int | None = None
    """Processes that computed on it and are not of this run, at most at once; None where the driver numbers processes
    otherwise than this process does (a container)."""
    foreign_bytes: int | None = None
    """The device memory that they held."""

    @property
    def slowed_by(self) -> tuple[str, ...]:
        """What held the clocks down and nobody asked for."""
        return tuple(name for name in self.throttles or () if name not in _ASKED_FOR)


@dataclass(frozen=True, kw_only=True)
class _Look:
    """NVML's answers at one moment."""

    sm_clock_mhz: int | None
    throttles: tuple[str, ...] | None
    power_mw: int | None
    temperature_celsius: int | None
    processes: dict[int, int | None] | None

    @property
    def tells(self) -> bool:
        """Whether there is one answer among them."""
        return any(answer is not None for answer in vars(self).values())


class GpuWatch:
    """From its making until ``stop``; it knows what it sees when it is told to look."""

    def __init__(self, board: Board | str) -> None:
        self._board = board
        self._before = self._look()
        self._looks: list[_Look] = []

    def look(self) -> None:
        """To be called right after work, when clocks and power are still those of the work."""
        if (look := self._look()) is not None:
            self._looks.append(look)

    def stop(self) -> GpuConditions:
        """What it saw."""
        board, before, last = self._board, self._before, self._look()
        if isinstance(board, str) or before is None or last is None:
            return GpuConditions(facts=None, unread=board if isinstance(board, str) else None)
        worked = self._looks or [last]
        if not any(look.tells for look in worked):
            return GpuConditions(facts=None, unread="NVML no longer answers for it")
        throttles = [look.throttles for look in worked if look.throttles is not None]
        return replace(
            _foreign([before, *worked, last], GpuConditions(facts=board.facts, unread=None)),
            sm_clock_start_mhz=worked[0].sm_clock_mhz,
            sm_clock_end_mhz=worked[-1].sm_clock_mhz,
            sm_clock_highest_mhz=board.ask_whole("MaxClockInfo", _SM_CLOCK),
            throttles=tuple(dict.fromkeys(name for names in throttles for name in names)) if throttles else None,
            power_watts=None if (power_mw := _most(look.power_mw for look in worked)) is None else power_mw * 1e-3,
            temperature_celsius=_most(look.temperature_celsius for look in worked),
        )

    def _look(self) -> _Look | None:
        board = self._board
        if isinstance(board, str):
            return None
        return _Look(
            sm_clock_mhz=board.ask_whole("ClockInfo", _SM_CLOCK),
            throttles=board.throttles(),
            power_mw=board.ask_whole("PowerUsage"),
            temperature_celsius=board.ask_whole("Temperature", _CHIP_SENSOR),
            processes=board.process_bytes(),
        )


def _foreign(looks: list[_Look], conditions: GpuConditions) -> GpuConditions:
    """With the processes that are not of this run, when they were most; not known where this one is not listed."""
    if os.getpid() not in (looks[-1].processes or {}):
        return conditions
    process = psutil.Process()
    family = {os.getpid(), *(other.pid for other in (*process.parents(), *process.children(recursive=True)))}
    groups = [[held for pid, held in (look.processes or {}).items() if pid not in family] for look in looks]
    most = max(groups, key=len)
    held_bytes = [held for held in most if held is not None]
    return replace(
        conditions,
        foreign_processes_count=len(most),
        foreign_bytes=sum(held_bytes) if len(held_bytes) == len(most) else None,
    )


def _most(figures: Iterable[int | None]) -> int | None:
    return max((figure for figure in figures if figure is not None), default=None)
