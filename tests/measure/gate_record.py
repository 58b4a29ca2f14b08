"""The speed gate on record: reruns without a change, and slow-downs planted into an artifact's file.

    python -m tests.measure.gate_record RUN [--reruns 20]

RUN is a run of the default recipe. Against a baseline written now: the reruns, then the planted ones. Then as on a
machine that was never seen, without the baseline: against the base commit, whose tree builds and measures in turns.
Prints Markdown; exit code 0 if no rerun failed and every planted slow-down did.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from bench import gate
from bench.baseline import new_baseline
from bench.gate import Regression, against_commit, against_committed, base_revision, gathered, ratio_to, sample_ratios
from export.environment import environment
from tests.bench.test_gate import only_onnx, plant_slow_down

_WANTED = 1.20
_MOST_NODES = 40


@dataclass(frozen=True)
class Options:
    """What to record."""

    run: tyro.conf.Positional[Path]
    reruns: int = 20
    commit: bool = True
    """Whether to measure against the base commit as well, which builds it."""


def main(options: Options) -> int:
    """Record."""
    here = environment()
    print(f"{here.machine.cpu}, {here.machine.cores_count} cores; {gate.PROCESSES} processes a side\n")
    with tempfile.TemporaryDirectory(prefix="torchstone-gate-") as scratch:
        run = only_onnx(options.run.resolve(), Path(scratch) / "clean" / "seed" / "run")
        slow, nodes_count = _slowed(run, Path(scratch))
        logs, _ = gathered([sample_ratios(run, seed) for seed in range(2 * gate.PROCESSES)])
        baseline = new_baseline(run, logs)
        print("| against | artifact | at batch 1 | at batch 32 | verdict |")
        print("|---|---|---|---|---|")
        alarms = sum(
            _row("baseline", f"unchanged, rerun {index + 1}", against_committed(run, baseline))
            for index in range(options.reruns)
        )
        found = [_row("baseline", f"{nodes_count} nodes planted", against_committed(slow, baseline))]
        revision = base_revision() if options.commit else None
        if revision is not None:
            alarms += _row(f"commit {revision[:7]}", "unchanged", against_commit(run, revision))
            found.append(_row(f"commit {revision[:7]}", f"{nodes_count} nodes planted", against_commit(slow, revision)))
    print(f"\n{alarms} alarms without a change; {sum(found)} of {len(found)} planted slow-downs found.")
    return 0 if alarms == 0 and all(found) else 1


def _slowed(run: Path, scratch: Path) -> tuple[Path, int]:
    """A copy whose ONNX file takes about a fifth longer at batch 1, and how many nodes that took."""
    before, again = gathered([sample_ratios(run, seed) for seed in range(3)])
    nodes_count = 1
    while nodes_count < _MOST_NODES:
        slow = scratch / f"slow-{nodes_count}" / "seed" / "run"
        shutil.copytree(run, slow)
        plant_slow_down(slow, nodes_count)
        after, _ = gathered([sample_ratios(slow, seed) for seed in range(3)])
        if max(one.ratio for one in ratio_to(after, before, again)) >= _WANTED:
            return slow, nodes_count
        nodes_count += 1
    raise RuntimeError("no number of planted nodes made it a fifth slower")


def _row(against: str, what: str, lost: list[Regression]) -> bool:
    """Print one comparison; whether it is a regression."""
    shown = " | ".join(f"{one.ratio:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in lost)
    regressed = any(one.regressed for one in lost)
    noisy = any(one.too_noisy for one in lost)
    verdict = "**regressed**" if regressed else "too noisy" if noisy else "passes"
    print(f"| {against} | {what} | {shown} | {verdict} |", flush=True)
    return regressed


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
