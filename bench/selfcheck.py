"""The harness measured by itself: work of known length, planted differences, other tools, simulated truth.

    python -m bench.selfcheck [--seeds-count 40]

Exit code 0: every check holds on this machine now; 1: one does not, and figures taken here deserve doubt.
"""

from __future__ import annotations

import functools
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from bench.stats.effects import Effect, effects, noise_floor, paired_logs
from bench.stats.simulated import FAMILIES, ROUNDS, TRIALS, coverage, differs, false_wins
from bench.timing.block import Block
from bench.timing.clock import now_s
from bench.timing.conditions import Watch, warnings
from bench.timing.processes.rounds import Plan, Round, timed
from bench.timing.spec import BenchSpec
from export.environment import cores_count
from export.task import task
from export.worker import Failed, Workspace

_SPINS_S = (20e-6, 200e-6, 2e-3)
_KNOWN_TOLERANCE = 0.01
_OTHER_TOOLS_TOLERANCE = 0.03
_LARGEST_EMPTY_S = 100e-9
_SLOW_DOWN = 1.05
_FALSE_WINS = 0.10
_COVERAGE = (0.93, 0.97)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long to check."""

    seeds_count: int = 40
    """Races of a thing against itself, and as many against a thing 5 % slower."""
    processes_count: int = 3
    """Fresh processes a race."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check."""

    what: str
    found: str
    demanded: str
    good: bool


@dataclass(frozen=True, kw_only=True)
class RaceJob:
    """Spins of these lengths against each other, in a fresh process."""

    spins_s: tuple[float, ...]
    seed: int


def main(settings: Settings) -> int:
    """Run every check, show a table."""
    console = Console()
    watch = Watch(cores_count())
    table = Table("check", "found", "demanded", "", box=None, header_style="bold")
    console.width = max(console.width, 120)
    good = True
    for finding in _findings(settings):
        table.add_row(finding.what, finding.found, finding.demanded, "✓" if finding.good else "✗")
        good = good and finding.good
    console.print(table)
    for doubt in warnings(watch.stop()):
        console.print(f"warning: {doubt.message}", soft_wrap=True)
    return 0 if good else 1


def _findings(settings: Settings) -> Iterator[Finding]:
    yield from _empty()
    for spin_s in _SPINS_S:
        yield _known(spin_s)
    yield _slope()
    yield from _other_tools()
    for processes_count in (3, 10, 20):
        yield _coverage(processes_count)
    yield _simulated_false_wins(settings)
    yield from _races(settings)


def _empty() -> Iterator[Finding]:
    """What the harness adds to a call."""
    block = _warm(_nothing)
    in_block_s = min(block.sample_s() for _ in range(20))
    alone_s = statistics.median(block.calls_s(2000))
    demanded = f"at most {_LARGEST_EMPTY_S * 1e9:.0f} ns"
    in_block = f"{in_block_s * 1e9:.0f} ns ({in_block_s / 2.5e-6:.1%} of a call of 2.5 us)"
    yield Finding(what="nothing, in a block", found=in_block, demanded=demanded, good=in_block_s <= _LARGEST_EMPTY_S)
    alone = f"{alone_s * 1e9:.0f} ns: single calls are timed from 10 us on"
    yield Finding(what="nothing, alone", found=alone, demanded="at most 500 ns", good=alone_s <= 500e-9)


def _known(spin_s: float) -> Finding:
    """A load that times itself, by the fastest of many blocks: what the harness says beyond that is the harness's."""
    own_s: list[float] = []

    def call() -> None:
        began = now_s()
        _spin(spin_s)
        own_s.append(now_s() - began)

    block = _warm(call)
    off = []
    for _ in range(30):
        own_s.clear()
        sample_s = block.sample_s()
        off.append(sample_s / statistics.mean(own_s) - 1)
    return Finding(
        what=f"a spin of {spin_s * 1e6:.0f} us",
        found=f"{min(off):+.2%}",
        demanded=f"within {_KNOWN_TOLERANCE:.0%}",
        good=abs(min(off)) <= _KNOWN_TOLERANCE,
    )


def _slope() -> Finding:
    """Blocks of n and of 2n calls: the difference is n calls, without whatever a block costs once."""
    block = _warm(_work)
    once, twice = block.calls_count, 2 * block.calls_count
    ratios = []
    for _ in range(30):
        block.calls_count = once
        short_s = block.sample_s()
        block.calls_count = twice
        ratios.append((2 * block.sample_s() - short_s) / short_s)
    off = statistics.median(ratios) - 1
    return Finding(what="blocks of n and 2n calls", found=f"{off:+.2%}", demanded="within 2%", good=abs(off) <= 0.02)


def _other_tools() -> Iterator[Finding]:
    """The same work by other tools, in turns: a machine that changes its speed does so for all."""
    from torch.utils.benchmark import Timer

    block = _warm(_work)
    timer = Timer("work()", globals={"work": _work})
    calls_count = block.calls_count
    others: dict[str, Callable[[], float]] = {
        "timeit": lambda: timeit.timeit(_work, number=calls_count) / calls_count,
        "torch.utils.benchmark": lambda: timer.timeit(calls_count).median,
    }
    ratios: dict[str, list[float]] = {name: [] for name in others}
    for _ in range(40):
        for name, measure in others.items():
            ratios[name].append(block.sample_s() / measure())
    for name, tool_ratios in ratios.items():
        yield _agreement(name, statistics.median(tool_ratios) - 1)
    yield _pyperf()


def _pyperf() -> Finding:
    """Pyperf's own processes and statistics, on a spin, since they cannot take turns with ours."""
    if shutil.which("pyperf", path=str(Path(sys.executable).parent)) is None:
        return Finding(what="pyperf", found="not installed: pip install pyperf", demanded="(left out)", good=True)
    spin_s = 200e-6
    setup = f"from bench.selfcheck import _spin; s = {spin_s}"
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "pyperf.json"
        command = [sys.executable, "-m", "pyperf", "timeit", "-q", "-p", "3", "-n", "3", "-w", "1", "-s", setup]
        subprocess.run([*command, "-o", str(stored), "_spin(s)"], check=True, capture_output=True)
        show = [sys.executable, "-m", "pyperf", "stats", "-q", str(stored)]
        printed = subprocess.run(show, check=True, capture_output=True, text=True).stdout
    pyperf_s = _microseconds(next(line for line in printed.splitlines() if line.startswith("Minimum:")))
    block = _warm(lambda: _spin(spin_s))
    return _agreement("pyperf", min(block.sample_s() for _ in range(30)) / pyperf_s - 1)


def _microseconds(line: str) -> float:
    """The seconds in a line such as ``Minimum:  201 us``."""
    value, unit = line.partition(":")[2].split()[:2]
    return float(value) * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "sec": 1.0}[unit]


def _agreement(name: str, off: float) -> Finding:
    return Finding(
        what=f"the same work by {name}",
        found=f"{off:+.2%}",
        demanded=f"within {_OTHER_TOOLS_TOLERANCE:.0%}",
        good=abs(off) <= _OTHER_TOOLS_TOLERANCE,
    )


def _coverage(processes_count: int) -> Finding:
    """Intervals over simulated processes that hold the true ratio."""
    share = coverage(processes_count)
    low, high = _COVERAGE
    return Finding(
        what=f"95 % intervals over {processes_count} processes hold the truth",
        found=f"{share:.1%} of {TRIALS}",
        demanded=f"{low:.0%} to {high:.0%}",
        good=low <= share <= high,
    )


def _simulated_false_wins(settings: Settings) -> Finding:
    """Simulated families of ten comparisons without a difference, in which one is claimed."""
    share = false_wins(settings.processes_count)
    return Finding(
        what="simulated families of ten without a difference, one claimed",
        found=f"{share:.1%} of {FAMILIES}",
        demanded=f"at most {_FALSE_WINS:.0%}",
        good=share <= _FALSE_WINS,
    )


def _races(settings: Settings) -> Iterator[Finding]:
    """Real fresh processes: a thing against itself, and against one 5 % slower."""
    claimed = detected = 0
    with tempfile.TemporaryDirectory(prefix="torchstone-selfcheck-") as folder:
        workspace = Workspace(folder=Path(folder))
        for seed in range(settings.seeds_count):
            verdicts = _race(workspace, seed, settings.processes_count)
            claimed += differs(verdicts["same"])
            detected += verdicts["slower"].comparison == "slower"
    count = settings.seeds_count
    yield Finding(
        what="races of a thing against itself that were won",
        found=f"{claimed} of {count}",
        demanded=f"at most {_FALSE_WINS:.0%}",
        good=claimed <= _FALSE_WINS * count,
    )
    yield Finding(
        what="races in which 5 % slower was found slower",
        found=f"{detected} of {count}",
        demanded="at least 80%",
        good=detected >= 0.8 * count,
    )


def _race(workspace: Workspace, seed: int, processes_count: int) -> Mapping[str, Effect]:
    """Four runners: the first, its second self for the noise floor, one as fast, one 5 % slower."""
    spin_s = 100e-6
    spins_s = (spin_s, spin_s, spin_s, spin_s * _SLOW_DOWN)
    sampled: list[list[list[float]]] = []
    for process in range(processes_count):
        job = RaceJob(spins_s=spins_s, seed=seed * processes_count + process)
        end = workspace.run(race, job, "race", fresh=True)
        if isinstance(end, Failed):
            raise RuntimeError(f"a race {end.summary}")
        sampled.append(end.result)
    runners: list[list[Sequence[float]]] = [list(runner) for runner in zip(*sampled, strict=True)]
    first, control, same, slower = runners
    floor = noise_floor(paired_logs(control, first))
    logs = {"same": paired_logs(same, first), "slower": paired_logs(slower, first)}
    return effects(logs, lambda _: floor, 0.02)


@task
def race(job: RaceJob) -> list[list[float]]:
    """Block times of every runner in random interleaved rounds, as many as a measurement would take."""
    order = random.Random(job.seed)
    blocks = {str(index): _warm(functools.partial(_spin, spin_s)) for index, spin_s in enumerate(job.spins_s)}

    def take() -> Round:
        return {label: timed(blocks[label]) for label in order.sample([*blocks], len(blocks))}

    rounds = Plan(rounds_count=ROUNDS, largest_error=BenchSpec().largest_round_error).timed(take)
    return [[taken[label].bound_s for taken in rounds] for label in blocks]


def _warm(call: Callable[[], Any]) -> Block:
    block = Block([call] * 4, lambda: None)
    block.warm_up(5, 0.02, 1.0, 0.002)
    return block


def _nothing() -> None:
    pass


def _work() -> int:
    """Some tens of microseconds of arithmetic."""
    return sum(range(2000))


def _spin(seconds: float) -> None:
    until = now_s() + seconds
    while now_s() < until:
        pass


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Settings, description=__doc__)))
