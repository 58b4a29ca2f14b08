"""Among artifacts that may ship: the winner, those tied with it, the Pareto front, and why the others did not win."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from bench.stats.effects import Effect, Ratio, effects
from bench.verdict.figures import Figures, Rounds

SIMPLEST_FIRST = (
    "onnx",
    "onnx-legacy",
    "onnx-int8",
    "openvino",
    "openvino-int8",
    "aotinductor",
    "torchscript",
    "exported",
    "compile",
)
"""Of tied artifacts the first of these wins: ONNX needs one small runtime, ``compile`` all of PyTorch."""
_COSTS = ("time", "peak memory", "cold start", "size")


@dataclass(frozen=True, kw_only=True)
class Eligible:
    """An artifact that may ship."""

    backend: str
    figures: Figures
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Who won, and why the others did not."""

    winner: str
    tied: tuple[str, ...]
    """Those whose difference to the fastest is noise, the winner among them; empty without a tie."""
    pareto_front: tuple[str, ...]
    """Those that no other one beats in time, peak memory, cold start and size at once."""
    reason: str
    why_not: dict[str, str]
    """By artifact."""


def choose(eligible: Mapping[str, Eligible], rounds: Rounds) -> Choice:
    """The fastest over all batch sizes (geometric mean); of those that noise cannot tell from it, the simplest."""
    times = {name: rounds.process_times(name) for name in eligible}
    noise, tie_ratio = rounds.noise_over_batches(), rounds.session.spec.tie_ratio
    fastest = min(times, key=lambda name: statistics.mean(times[name]))
    behind = effects(
        {name: [b - a for a, b in zip(times[fastest], times[name], strict=True)] for name in times if name != fastest},
        lambda _: noise,
        tie_ratio,
    )
    tied = [name for name, effect in behind.items() if _is_tie(effect, tie_ratio)]
    winner = min([fastest, *tied], key=lambda name: SIMPLEST_FIRST.index(eligible[name].backend))
    costs = {name: _costs(one, statistics.mean(times[name])) for name, one in eligible.items()}
    pareto_front = tuple(name for name in eligible if not any(_beats(costs[other], costs[name]) for other in eligible))
    return Choice(
        winner=winner,
        tied=tuple(sorted([fastest, *tied], key=lambda name: statistics.mean(times[name]))) if tied else (),
        pareto_front=pareto_front,
        reason=_reason(winner, fastest, tied, behind, sorted({s.batch_rows for s in eligible[fastest].figures.speeds})),
        why_not={
            name: _why_not(name, winner, fastest, behind, costs, pareto_front) for name in eligible if name != winner
        },
    )


def interval(ratio: Ratio) -> str:
    """``1.72 [1.64, 1.81]``."""
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _is_tie(effect: Effect, tie_ratio: float) -> bool:
    """Not shown to be slower, and no farther off than noise or indifference; else the likelier one is taken."""
    return effect.comparison != "slower" and effect.ratio.value <= 1 + max(tie_ratio, effect.noise_ratio)


def _reason(winner: str, fastest: str, tied: list[str], behind: Mapping[str, Effect], batches: list[int]) -> str:
    over = f"over batch {', '.join(map(str, batches))}"
    if not behind:
        return f"{winner} is the only artifact that may ship"
    if tied:
        others = ", ".join(f"{name} {interval(behind[name].ratio)}" for name in tied)
        return (
            f"a tie {over}: {', '.join([fastest, *tied])} ({others} times {fastest}'s time); "
            f"{winner} is the simplest to deploy"
        )
    second = min(behind, key=lambda name: behind[name].ratio.value)
    summary = (
        f"{fastest} is the fastest {over}: the next, {second}, takes {interval(behind[second].ratio)} times as long"
    )
    return summary + _unsettled(behind[second])


def _unsettled(effect: Effect) -> str:
    """What to add to a ratio whose interval does not settle it."""
    if effect.comparison != "inconclusive":
        return ""
    count = effect.needs_processes_count
    return f", not settled: {f'about {count} processes would' if count else 'it lies within the noise floor'}"


def _why_not(
    name: str,
    winner: str,
    fastest: str,
    behind: Mapping[str, Effect],
    costs: Mapping[str, Mapping[str, float]],
    pareto_front: tuple[str, ...],
) -> str:
    if name == fastest:
        summary = f"tied with {winner}, which is simpler to deploy"
    else:
        summary = f"takes {interval(behind[name].ratio)} times {fastest}'s time{_unsettled(behind[name])}"
    better = [cost for cost in _COSTS[1:] if _less(costs[name].get(cost), costs[winner].get(cost))]
    return f"{summary}; less {' and '.join(better)}" if name in pareto_front and better else summary


def _costs(one: Eligible, log_time: float) -> dict[str, float]:
    costs = {"time": math.exp(log_time), "size": float(one.size_bytes)}
    if one.figures.cold is not None:
        costs["cold start"] = one.figures.cold.total_s
        if one.figures.cold.peak_bytes is not None:
            costs["peak memory"] = float(one.figures.cold.peak_bytes)
    return costs


def _beats(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether ``one`` is nowhere costlier and somewhere cheaper, by more than indifference."""
    known = [cost for cost in _COSTS if cost in one and cost in other]
    return any(_less(one[cost], other[cost]) for cost in known) and not any(
        _less(other[cost], one[cost]) for cost in known
    )


def _less(one: float | None, other: float | None, tie_ratio: float = 0.02) -> bool:
    return one is not None and other is not None and one < other * (1 - tie_ratio)
