"""Among artifacts that may ship: the winner, those tied with it, the Pareto front, and why the others did not win."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.stats.effects import Effect, effects
from bench.timing.spec import BenchSpec
from bench.verdict.figures import Figures, Rounds

_COSTS = ("time", "peak memory", "cold start", "size")


@dataclass(frozen=True, kw_only=True)
class Eligible:
    """An artifact that may ship."""

    deployment_rank: int
    """The backend's: of artifacts that are equally fast the lowest ships."""
    figures: Figures
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Who won, and why the others did not."""

    winner: str
    tied: tuple[str, ...]
    """Those whose difference to the fastest is noise, the winner among them; empty without a tie."""
    pareto_front: tuple[str, ...]
    """Those that no other one beats in time, peak memory, cold start and size at once."""
    reason: str
    why_not: dict[str, str]
    """By artifact."""


def rank(eligible: Mapping[str, Eligible], rounds: Rounds) -> Ranking:
    """The fastest over all batch sizes (geometric mean); of those that noise cannot tell from it, the simplest.

    Sizes at which nobody's times are their own are left out. Whose times are not its own takes no part, unless it is
    the fastest all the same, since others only add to a time; where nobody's are, the simplest is taken.
    """
    batches = [rows for rows in rounds.batches if not all(rounds.spoilt(name, rows) for name in eligible)]
    if not batches:
        return _unranked(eligible)
    times = {name: rounds.process_times(name, batches) for name in eligible}
    spoilt = {name: why for name in eligible if (why := rounds.spoilt_anywhere(name, batches)) is not None}
    not_ranked = {name: f"not ranked: {why}" for name, why in spoilt.items()}
    fastest = min(times, key=lambda name: statistics.mean(times[name]))
    not_ranked.pop(fastest, None)
    eligible = {name: artifact for name, artifact in eligible.items() if name not in not_ranked}
    times = {name: times[name] for name in eligible}
    noise, spec = rounds.noise_over_batches(batches), rounds.session.spec
    tie_ratio = spec.tie_ratio
    behind = effects(
        {name: [b - a for a, b in zip(times[fastest], times[name], strict=True)] for name in times if name != fastest},
        lambda _: noise,
        tie_ratio,
    )
    tied = [name for name, effect in behind.items() if _is_tie(effect, tie_ratio)]
    winner = min([fastest, *tied], key=lambda name: eligible[name].deployment_rank)
    costs = {name: _costs(artifact, statistics.mean(times[name])) for name, artifact in eligible.items()}
    pareto_front = tuple(name for name in eligible if not any(_beats(costs[other], costs[name]) for other in eligible))
    if fastest in spoilt:
        others = {
            name: f"took longer than {fastest}, from which others took cores" for name in eligible if name != fastest
        }
        reason = f"{fastest} took the least time, though others took cores from it: nobody knows by how much"
        if winner != fastest:
            reason += f"; {winner} is tied with it, and simpler to deploy"
            others[fastest] = f"tied with {winner}, which is simpler to deploy"
            del others[winner]
        return Ranking(winner=winner, tied=(), pareto_front=pareto_front, reason=reason, why_not=not_ranked | others)
    return Ranking(
        winner=winner,
        tied=tuple(sorted([fastest, *tied], key=lambda name: statistics.mean(times[name]))) if tied else (),
        pareto_front=pareto_front,
        reason=_reason(winner, fastest, tied, behind, spec, batches),
        why_not=not_ranked
        | {
            name: _why_not(name, winner, fastest, behind, spec, costs, pareto_front)
            for name in eligible
            if name != winner
        },
    )


def _unranked(eligible: Mapping[str, Eligible]) -> Ranking:
    """The simplest, where no speed is known."""
    winner = min(eligible, key=lambda name: eligible[name].deployment_rank)
    others = {name: "not ranked: others took the cores" for name in eligible if name != winner}
    reason = f"nobody's speed is known, since others took the cores: {winner} is the simplest to deploy"
    return Ranking(winner=winner, tied=(), pareto_front=(), reason=reason, why_not=others)


def _is_tie(effect: Effect, tie_ratio: float) -> bool:
    """Not shown to be slower, and no farther off than noise or indifference; else the likelier one is taken."""
    if effect.comparison == "slower":
        return False
    return effect.noise_ratio is None or effect.ratio.value <= 1 + max(tie_ratio, effect.noise_ratio)


def _reason(
    winner: str, fastest: str, tied: list[str], behind: Mapping[str, Effect], spec: BenchSpec, batches: Sequence[int]
) -> str:
    over = f"over batch {', '.join(map(str, batches))}"
    if not behind:
        return f"{winner} is the only artifact that may ship"
    if tied:
        others = ", ".join(f"{name} {behind[name].ratio.spelled()}" for name in tied)
        return (
            f"a tie {over}: {', '.join([fastest, *tied])} ({others} times {fastest}'s time); "
            f"{winner} is the simplest to deploy"
        )
    second = min(behind, key=lambda name: behind[name].ratio.value)
    summary = (
        f"{fastest} is the fastest {over}: the next, {second}, takes {behind[second].ratio.spelled()} times as long"
    )
    return summary + _unsettled(behind[second], spec)


def _unsettled(effect: Effect, spec: BenchSpec) -> str:
    """What to add to a ratio whose interval does not settle it: what to run."""
    if effect.comparison != "inconclusive":
        return ""
    if effect.needs_processes_count is None:
        return ", not settled: the difference lies within the noise of this machine"
    return f", not settled: run again with {spec.flags_for(effect.needs_processes_count)}"


def _why_not(
    name: str,
    winner: str,
    fastest: str,
    behind: Mapping[str, Effect],
    spec: BenchSpec,
    costs: Mapping[str, Mapping[str, float]],
    pareto_front: tuple[str, ...],
) -> str:
    if name == fastest:
        summary = f"tied with {winner}, which is simpler to deploy"
    else:
        summary = f"takes {behind[name].ratio.spelled()} times {fastest}'s time{_unsettled(behind[name], spec)}"
    better = [cost for cost in _COSTS[1:] if _less(costs[name].get(cost), costs[winner].get(cost))]
    return f"{summary}; less {' and '.join(better)}" if name in pareto_front and better else summary


def _costs(artifact: Eligible, log_time: float) -> dict[str, float]:
    costs = {"time": math.exp(log_time), "size": float(artifact.size_bytes)}
    if artifact.figures.cold is not None:
        costs["cold start"] = artifact.figures.cold.total_s
        if artifact.figures.cold.peak_bytes is not None:
            costs["peak memory"] = float(artifact.figures.cold.peak_bytes)
    return costs


def _beats(costs: Mapping[str, float], others: Mapping[str, float]) -> bool:
    """Whether ``costs`` are nowhere above ``others`` and somewhere below, by more than indifference."""
    known = [cost for cost in _COSTS if cost in costs and cost in others]
    return any(_less(costs[cost], others[cost]) for cost in known) and not any(
        _less(others[cost], costs[cost]) for cost in known
    )


def _less(value: float | None, other: float | None, tie_ratio: float = 0.02) -> bool:
    return value is not None and other is not None and value < other * (1 - tie_ratio)
