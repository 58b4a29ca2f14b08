"""What differs between two runs, and whether it is more than noise could do.

Absolute times of two sessions do not compare: machines, and hours on one machine, differ by more than most changes. So
times and cold starts are taken as multiples of eager's in their own run, and multiples are compared (Welch's interval
over processes, corrected for all comparisons). Sizes and peaks of memory are compared as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.stats.effects import FAMILY_ERROR, Ratio, unpaired
from bench.verdict.judge import Row
from export.errors import UserError
from export.record import Record
from export.registry import BASELINE
from pipeline.comparison.side import Key, Side

LEAST = 0.10
"""A change by less than a tenth is held for nothing."""
Kind = Literal["verdict", "row", "parity", "ships", "time", "start-up", "memory", "size"]
Outcome = Literal["better", "worse", "same", "inconclusive", "other"]
"""``inconclusive``: a change that matters could hide in the interval; ``other``: neither better nor worse."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing, then and now."""

    kind: Kind
    what: str
    """A row, with its batch size where it is a time; empty of the run itself."""
    outcome: Outcome
    before: float | str | None
    """Seconds, bytes, or a status; None where there was none."""
    after: float | str | None
    ratio: Ratio | None = None
    """Now over then; of times and starts, of their multiples of eager's."""
    noise_ratio: float | None = None
    """What an artifact differed from itself, a share; None where nothing was measured twice."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Record):
    """All of it."""

    SCHEMA: ClassVar[str] = "torchstone.comparison/1"

    recipe: str
    before: str
    """The folder's name."""
    after: str
    least: float
    changes: tuple[Change, ...]
    refused: tuple[str, ...]
    """What does not compare, each with the field for which it does not."""

    @property
    def regressed(self) -> bool:
        """Whether anything became worse."""
        return any(change.outcome == "worse" for change in self.changes)


def compare(before: Side, after: Side, least: float = LEAST) -> Comparison:
    """Everything that both runs have.

    Raises:
        UserError: runs of two recipes.
    """
    if before.record.name != after.record.name:
        raise UserError(
            f"two runs of one recipe compare: {before.label} is of {before.record.name!r}, "
            f"{after.label} of {after.record.name!r}"
        )
    refused = tuple(_refused(before, after))
    timed = () if refused else (*_times(before, after, least), *_starts(before, after, least))
    return Comparison(
        recipe=before.record.name,
        before=before.files.path.name,
        after=after.files.path.name,
        least=least,
        changes=(*_verdicts(before, after), *_rows(before, after, least), *timed),
        refused=refused,
    )


def _refused(before: Side, after: Side) -> Iterator[str]:
    """Why times do not compare."""
    for field, then in before.places.items():
        if then != (now := after.places[field]):
            yield f"times and starts: {field} was {then}, and is {now}"


def _verdicts(before: Side, after: Side) -> Iterator[Change]:
    then, now = before.verdict, after.verdict
    yield _status("verdict", "", _said(then.good), _said(now.good), good="good")
    if then.winner != now.winner:
        yield Change(kind="verdict", what="winner", outcome="other", before=then.winner, after=now.winner)


def _said(good: bool) -> str:
    return "good" if good else "not good"


def _status(kind: Kind, what: str, before: str | None, after: str | None, good: str) -> Change:
    """A status of two words or more, of which one is good."""
    outcome: Outcome = (
        "same" if before == after else "better" if after == good else "worse" if before == good else "other"
    )
    return Change(kind=kind, what=what, outcome=outcome, before=before, after=after)


def _rows(before: Side, after: Side, least: float) -> Iterator[Change]:
    for name in dict.fromkeys([*before.rows, *after.rows]):
        then, now = before.rows.get(name), after.rows.get(name)
        if then is None or now is None:
            there = "there"
            yield Change(
                kind="row", what=name, outcome="worse" if now is None else "other",
                before=there if then else None, after=there if now else None,
            )  # fmt: skip
        else:
            yield from _row(name, then, now, least)


def _row(name: str, then: Row, now: Row, least: float) -> Iterator[Change]:
    yield _status("parity", name, then.parity, now.parity, good="pass")
    if name != BASELINE:
        yield _status("ships", name, _may(then), _may(now), good="may ship")
    yield from _amount("size", name, then.size_bytes, now.size_bytes, least)
    peaks = (row.cold.peak_bytes if row.cold else None for row in (then, now))
    yield from _amount("memory", name, next(peaks), next(peaks), least)


def _may(row: Row) -> str:
    return "may ship" if row.shippable else "may not ship"


def _amount(kind: Kind, name: str, then: int | None, now: int | None, least: float) -> Iterator[Change]:
    """Bytes, where both are known and there are some."""
    if not then or not now:
        return
    ratio = now / then
    outcome: Outcome = "worse" if ratio > 1 + least else "better" if ratio < 1 / (1 + least) else "same"
    exact = Ratio(value=ratio, low=ratio, high=ratio)
    yield Change(kind=kind, what=name, outcome=outcome, before=float(then), after=float(now), ratio=exact)


def _times(before: Side, after: Side, least: float) -> Iterator[Change]:
    then, now = before.logs, after.logs
    common = [key for key in now if key in then]
    for name, rows in common:
        floor = max(before.noise.get(rows, 0.0), after.noise.get(rows, 0.0))
        ratio = unpaired(now[name, rows], then[name, rows], FAMILY_ERROR / len(common))
        yield Change(
            kind="time", what=f"{name} at batch {rows}", outcome=outcome_of(ratio, least, floor),
            before=_median_s(before, (name, rows)), after=_median_s(after, (name, rows)), ratio=ratio,
            noise_ratio=math.expm1(floor),
        )  # fmt: skip


def _starts(before: Side, after: Side, least: float) -> Iterator[Change]:
    names = [
        name for name in after.rows if name != BASELINE and min(len(before.starts(name)), len(after.starts(name))) > 1
    ]
    for name in names:
        ratio = unpaired(after.starts(name), before.starts(name), FAMILY_ERROR / len(names))
        yield Change(
            kind="start-up", what=name, outcome=outcome_of(ratio, least, 0.0), before=_start_s(before, name),
            after=_start_s(after, name), ratio=ratio,
        )  # fmt: skip


def outcome_of(ratio: Ratio, least: float, floor: float) -> Outcome:
    """What an interval shows: ``worse`` and ``better`` where all of it lies beyond what counts and beyond noise (a
    log-ratio), ``same`` where all of it lies within.
    """
    reach = math.exp(max(math.log1p(least), floor))
    low, high = ratio.low or 0.0, math.inf if ratio.high is None else ratio.high
    if low > reach:
        return "worse"
    if high < 1 / reach:
        return "better"
    return "same" if 1 / reach <= low and high <= reach else "inconclusive"


def _median_s(side: Side, key: Key) -> float | None:
    name, rows = key
    return next((speed.median_s for speed in side.rows[name].speeds if speed.batch_rows == rows), None)


def _start_s(side: Side, name: str) -> float | None:
    cold = side.rows[name].cold
    return cold.total_s if cold else None
