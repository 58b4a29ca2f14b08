"""The speed gate: whether an artifact lost ground to eager since a baseline, by paired ratios in fresh processes.

Absolute times differ between machines, and between hours on one machine, by more than any regression worth catching; a
ratio to eager, taken within rounds, does not. The baseline is the committed one where processor, GPU and versions are
the same; elsewhere it is the base commit, whose own tree builds and measures in turns with this one. A regression must
exceed ``MIN_EFFECT`` and the noise floor with its whole interval, corrected for all that is compared; where noise is
too large to see one, that is said, and nothing is judged.

    python -m bench.gate RUN             write bench/baseline.json from RUN, here
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro

from bench.baseline import BASELINE_FILE, Baseline, Logs, device_of, new_baseline
from bench.ratios import Ratios
from bench.run_folder import RunFolder
from bench.stats.effects import FAMILY_ERROR, LARGEST_SHARE, noise_floor, unpaired
from export.errors import UserError
from export.record import from_json, write

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = 5
MIN_EFFECT = 0.10
"""A smaller loss than a tenth is not held against a change."""
LARGEST_DETECTABLE = 0.25
"""Where only larger losses could be shown, the gate does not judge."""


@dataclass(frozen=True, kw_only=True)
class Regression:
    """One artifact at one batch size against the baseline."""

    what: str
    ratio: float
    """Its time relative to eager's, now over then: 1.2 is a fifth slower."""
    low: float
    high: float
    floor: float
    """The noise floor, a share."""

    @property
    def regressed(self) -> bool:
        """Whether the whole interval lies beyond the smallest loss that counts, and beyond noise."""
        return self.low > 1 + max(MIN_EFFECT, self.floor)

    @property
    def too_noisy(self) -> bool:
        """Whether a loss that matters could hide in the interval."""
        return not self.regressed and self.high / self.ratio > 1 + LARGEST_DETECTABLE

    @property
    def message(self) -> str:
        """For a person."""
        return (
            f"{self.what}: {self.ratio:.2f} [{self.low:.2f}, {self.high:.2f}] of the baseline's time relative to eager "
            f"(counts from {1 + max(MIN_EFFECT, self.floor):.2f})"
        )


def ratio_to(now: Logs, then: Logs, again: Logs) -> list[Regression]:
    """What is in both, compared; ``again`` are eager's ratios to itself, by batch size.

    The intervals are Welch's, widened for the number of comparisons.
    """
    common = [what for what in now if what in then]
    error = 2 * FAMILY_ERROR / max(len(common), 1)  # one-sided: only losses are held against a change
    lost = []
    for what in common:
        ratio = unpaired(now[what], then[what], error)
        floor = noise_floor(again[what.rpartition(" ")[2]])
        lost.append(
            Regression(
                what=what,
                ratio=ratio.value,
                low=ratio.low or 0.0,
                high=ratio.high or math.inf,
                floor=math.expm1(min(floor, math.log1p(LARGEST_SHARE))),
            )
        )
    return lost


def sample_ratios(run: Path, seed: int, tree: Path = ROOT) -> Ratios:
    """One fresh process's ratios, by the code of ``tree``.

    Raises:
        UserError: it failed; with what it said.
    """
    command = [sys.executable, "-m", "bench.ratios", str(run), "--seed", str(seed)]
    done = subprocess.run(
        command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise UserError(f"measuring {run} by the code in {tree} failed:\n{done.stderr[-1000:]}")
    return from_json(Ratios, json.loads(done.stdout.splitlines()[-1]))


def gathered(sampled: Sequence[Ratios]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Log-ratios by ``artifact at batch``, and eager's to itself by batch."""
    logs: dict[str, list[float]] = {}
    again: dict[str, list[float]] = {}
    for ratios in sampled:
        for name, by_batch in ratios.logs.items():
            for rows, log in by_batch.items():
                logs.setdefault(f"{name} at batch {rows}", []).append(log)
        for rows, log in ratios.again.items():
            again.setdefault(rows, []).append(log)
    return logs, again


def against_committed(run: Path, baseline: Baseline) -> list[Regression]:
    """This run now, against what was committed."""
    now, again = gathered([sample_ratios(run, seed) for seed in range(PROCESSES)])
    return ratio_to(now, baseline.logs, again)


def against_commit(run: Path, revision: str) -> list[Regression]:
    """This run against a run of ``revision``'s own tree, processes in turns.

    Raises:
        UserError: the revision cannot be built or measured.
    """
    with _tree(revision) as tree:
        recipe = RunFolder(run).recipe_name
        out = tree / "artifacts"
        where = device_of(run).name
        command = [sys.executable, "-m", "pipeline.all", recipe, "--out", str(out), "--device", where]
        command += ["--only", "parity", "--quiet"]
        done = subprocess.run(
            command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False
        )
        runs = [path.parent for path in out.glob(f"{recipe}/*/recipe.json")]
        if done.returncode not in {0, 1} or len(runs) != 1:
            raise UserError(f"{revision} does not build {recipe}: {done.stderr[-1000:]}")
        present: list[Ratios] = []
        base: list[Ratios] = []
        for seed in range(PROCESSES):
            present.append(sample_ratios(run, seed))
            base.append(sample_ratios(runs[0], seed, tree))
    (now, again), (then, _) = gathered(present), gathered(base)
    return ratio_to(now, then, again)


def base_revision() -> str | None:
    """The commit to compare with: ``TORCHSTONE_BASE``, else the one before; None outside a git checkout."""
    wanted = os.environ.get("TORCHSTONE_BASE", "HEAD~1")
    command = ["git", "rev-parse", "--verify", "--quiet", f"{wanted}^{{commit}}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


@contextmanager
def _tree(revision: str) -> Iterator[Path]:
    """A checkout of the revision beside this one."""
    with tempfile.TemporaryDirectory(prefix="torchstone-base-") as scratch:
        tree = Path(scratch) / "tree"
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", str(tree), revision],
            cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip
        try:
            if not (tree / "bench" / "ratios.py").exists():
                raise UserError(f"{revision} has no bench/ratios.py: it is from before the gate")
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=False)


def main(run: tyro.conf.Positional[Path], /) -> int:
    """Write the baseline of this machine from RUN."""
    logs, _ = gathered([sample_ratios(run.resolve(), seed) for seed in range(2 * PROCESSES)])
    baseline = new_baseline(run.resolve(), logs)
    write(BASELINE_FILE, baseline)
    print(f"{BASELINE_FILE}: {len(logs)} ratios of {2 * PROCESSES} processes each")
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main, description=__doc__))
