"""What differs between two runs, and whether it is more than noise could do.

Absolute times of two sessions do not compare: machines, and hours on one machine, differ by more than most changes. So
times and cold starts are taken as multiples of eager's in the same round of their own run, and multiples are compared
(Welch's interval over processes, or over starts, corrected for all of them together).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from bench.stats.effects import FAMILY_ERROR, Ratio, noise_share, unpaired
from bench.verdict.judge import Row
from export.errors import UserError
from export.record import Record
from export.registry import BASELINE
from pipeline.comparison import LEAST
from pipeline.comparison.side import Key, Side

Kind = Literal["verdict", "row", "parity", "ships", "time", "start-up", "memory", "size"]
Outcome = Literal["better", "worse", "same", "inconclusive", "other"]
"""``inconclusive``: a change that matters could hide; ``other``: neither better nor worse."""
_PARITY = ("pass", "no-reference", "inconclusive", "fail", None)
"""From the best to the worst; None of what was not built, or did not answer."""
_SHIPS = ("may ship", "may not ship")
_GOOD = ("good", "not good")


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
    """Now over then; of times and starts, of their multiples of eager's. None where nothing was measured twice."""
    noise_ratio: float | None = None
    """What an artifact differed from itself, a share; None where that is not known, or beyond all reason."""
    why: str | None = None
    """Why it is inconclusive, where that is not the interval's doing."""


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
    remarks: tuple[str, ...]
    """What one must know to read the rest."""

    def regressed(self, *, strict: bool) -> bool:
        """Whether anything became worse; ``strict``: or might have, which nobody can tell."""
        bad = {"worse", "inconclusive"} if strict else {"worse"}
        return any(change.outcome in bad for change in self.changes) or (strict and bool(self.refused))


def compare(before: Side, after: Side, least: float = LEAST) -> Comparison:
    """Everything that either run has.

    Raises:
        UserError: runs of two recipes.
    """
    if before.record.name != after.record.name:
        raise UserError(
            f"two runs of one recipe compare: {before.label} is of {before.record.name!r}, "
            f"{after.label} of {after.record.name!r}"
        )
    elsewhere = tuple(_elsewhere(before, after))
    measured = () if elsewhere else tuple(_measured(before, after, least))
    once = () if elsewhere else tuple(_once(before, after))
    return Comparison(
        recipe=before.record.name,
        before=before.files.path.name,
        after=after.files.path.name,
        least=least,
        changes=(*_verdicts(before, after, here=not elsewhere), *_rows(before, after, least, not elsewhere), *measured),
        refused=(*elsewhere, *once),
        remarks=tuple(_remarks(before, after)),
    )


def _elsewhere(before: Side, after: Side) -> Iterator[str]:
    """Why nothing that was measured compares."""
    for field, then in before.places.items():
        if then != (now := after.places[field]):
            yield f"times, starts and memory: {field} was {then}, and is {now}"


def _once(before: Side, after: Side) -> Iterator[str]:
    """What was measured too seldom to have a spread."""
    if any(0 < len(side.starts(name)) < 2 for side in (before, after) for name in side.rows):
        yield "starts: started once a run, which has no spread: --bench.cold-starts-count 5"


def _remarks(before: Side, after: Side) -> Iterator[str]:
    if before.record.source_sha256 != after.record.source_sha256 or before.weights_sha256 != after.weights_sha256:
        yield "the recipe or its weights changed: eager itself may be faster or slower, and times are multiples of its"
    for rows, then_s in before.baseline_s.items():
        if (now_s := after.baseline_s.get(rows)) is not None:
            yield f"eager took {then_s * 1e6:.3g} us at batch {rows}, and takes {now_s * 1e6:.3g} us"


def _verdicts(before: Side, after: Side, *, here: bool) -> Iterator[Change]:
    then, now = before.verdict, after.verdict
    yield _status("verdict", "", _GOOD, _GOOD[not then.good], _GOOD[not now.good], here)
    if then.winner != now.winner:
        yield Change(kind="verdict", what="winner", outcome="other", before=then.winner, after=now.winner)


def _status(
    kind: Kind, what: str, order: Sequence[str | None], before: str | None, after: str | None, here: bool = True
) -> Change:
    """The change of a word in an order, the best first. What may be a limit's doing is no loss on another machine."""
    step = order.index(after) - order.index(before)
    outcome: Outcome = "same" if step == 0 else "better" if step < 0 else "worse" if here else "inconclusive"
    why = "it may be a limit that another machine breaks" if outcome == "inconclusive" else None
    return Change(kind=kind, what=what, outcome=outcome, before=before, after=after, why=why)


def _rows(before: Side, after: Side, least: float, here: bool) -> Iterator[Change]:
    for name in dict.fromkeys([*before.rows, *after.rows]):
        then, now = before.rows.get(name), after.rows.get(name)
        if then is None or now is None:
            places = tuple(None if row is None else "there" for row in (then, now))
            outcome: Outcome = "worse" if now is None else "other"
            yield Change(kind="row", what=name, outcome=outcome, before=places[0], after=places[1])
        else:
            yield from _row(name, then, now, least, here)


def _row(name: str, then: Row, now: Row, least: float, here: bool) -> Iterator[Change]:
    yield _status("parity", name, _PARITY, then.parity, now.parity)
    if name != BASELINE:
        by_limits = then.parity == now.parity and then.built == now.built
        ships = (_SHIPS[not row.shippable] for row in (then, now))
        yield _status("ships", name, _SHIPS, next(ships), next(ships), here or not by_limits)
    if then.size_bytes and now.size_bytes:
        exact = now.size_bytes / then.size_bytes
        ratio = Ratio(value=exact, low=exact, high=exact)
        yield Change(
            kind="size", what=name, outcome=outcome_of(ratio, least, 0.0), before=float(then.size_bytes),
            after=float(now.size_bytes), ratio=ratio,
        )  # fmt: skip


def _measured(before: Side, after: Side, least: float) -> Iterator[Change]:
    """Times, starts and peaks of memory, each of what was measured in either run."""
    times = list(dict.fromkeys(key for side in (before, after) for key in side.measured))
    common = [key for key in times if key in before.logs and key in after.logs]
    starts = [
        name for name in after.rows
        if name != BASELINE and min(len(side.starts(name)) for side in (before, after)) > 1
    ]  # fmt: skip
    error = FAMILY_ERROR / max(len(common) + len(starts), 1)
    for key in times:
        yield _time(before, after, key, least, error) if key in common else _untold(before, after, key)
    for name in starts:
        ratio = unpaired(after.starts(name), before.starts(name), error)
        yield Change(
            kind="start-up", what=name, outcome=outcome_of(ratio, least, 0.0), before=before.start_s(name),
            after=after.start_s(name), ratio=ratio,
        )  # fmt: skip
    for name in after.rows:
        yield from _memory(before, after, name, least)


def _time(before: Side, after: Side, key: Key, least: float, error: float) -> Change:
    name, rows = key
    noises = [side.noise.get(rows) for side in (before, after)]
    known = [noise for noise in noises if noise is not None]
    floor = max(known, default=0.0)
    ratio = unpaired(after.logs[key], before.logs[key], error)
    return Change(
        kind="time", what=f"{name} at batch {rows}", outcome=outcome_of(ratio, least, floor),
        before=before.median_s(key), after=after.median_s(key), ratio=ratio,
        noise_ratio=noise_share(floor) if len(known) == len(noises) else None,
    )  # fmt: skip


def _untold(before: Side, after: Side, key: Key) -> Change:
    """A time that one run, or both, cannot state."""
    name, rows = key
    whys = [f"{when}: {why}" for when, side in (("before", before), ("after", after)) if (why := side.why_not(key))]
    return Change(
        kind="time", what=f"{name} at batch {rows}", outcome="inconclusive", before=before.median_s(key),
        after=after.median_s(key), why="; ".join(whys),
    )  # fmt: skip


def _memory(before: Side, after: Side, name: str, least: float) -> Iterator[Change]:
    """Peaks of memory; where a run has but one start, a difference that counts may be its allocator's."""
    then, now = before.peaks_bytes(name), after.peaks_bytes(name)
    if not then or not now:
        return
    typical = tuple(float(sorted(peaks)[len(peaks) // 2]) for peaks in (then, now))
    ratio, why = None, None
    if min(len(then), len(now)) > 1:
        ratio = unpaired([math.log(peak) for peak in now], [math.log(peak) for peak in then])
        outcome = outcome_of(ratio, least, 0.0)
    else:
        near = 1 / (1 + least) <= typical[1] / typical[0] <= 1 + least
        outcome, why = ("same", None) if near else ("inconclusive", "one start in a run: --bench.cold-starts-count 5")
    yield Change(kind="memory", what=name, outcome=outcome, before=typical[0], after=typical[1], ratio=ratio, why=why)


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
