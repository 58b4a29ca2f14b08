"""Everything that only a CUDA machine can show, step by step, each in a process of its own.

    python -m tests.gpu [--list] [--only STEP ...] [--out FOLDER] [--budget-s 540] [--device cpu]

Leaves three files in the output folder: ``gpu.jsonl`` (a line a step: status, seconds, figures), ``log.txt`` (what the
steps printed) and ``runs.tar.gz`` (the records of the pipeline's runs). Started again on the same folder it does what
is not done yet. ``--device cpu`` is a dry run of the same steps at the smallest sizes.

Exit code 0 only if every step is done. Without CUDA it says so and ends with 2.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from tests.gpu.drive import Plan, drive
from tests.gpu.plan import STEPS, Step
from tests.gpu.step import ROOT

_CORES_PER_STEP = 4


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run."""

    only: tuple[str, ...] = ()
    """These steps alone."""
    list: bool = False
    """Print the steps, and run none."""
    out: Path = field(default_factory=lambda: Path(os.environ.get("OUT") or ROOT / "artifacts" / "gpu-out"))
    """Where results are left; by default the folder that the environment variable OUT names, else artifacts/gpu-out."""
    work: Path | None = None
    """Runs, caches and logs; by default in the system's folder for temporary files."""
    device: Literal["cuda", "cpu"] = "cuda"
    """cpu is a dry run."""
    budget_s: float = 540.0
    """No step is started that would end later."""
    beside: int | None = None
    """How many steps that measure no time run side by side; by default one for every four cores."""


def main(options: Options) -> int:
    """Run the chosen steps."""
    steps = chosen(options)
    if options.list:
        for step in steps:
            print(f"{step.name:<18} {step.expected_s:4.0f} s  {step.about}")
        return 0
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            print("torch finds no usable CUDA device here: --device cpu is a dry run")
            return 2
    work = options.work or Path(tempfile.gettempdir()) / f"torchstone-gpu-{options.device}"
    plan = Plan(
        steps=steps,
        device=options.device,
        out=options.out.resolve(),
        work=work.resolve(),
        budget_s=options.budget_s,
        beside_count=options.beside or max(1, (os.cpu_count() or 1) // _CORES_PER_STEP),
    )
    return drive(plan)


def chosen(options: Options) -> list[Step]:
    """The steps that were named, or all; without those that make no sense on the device."""
    if unknown := set(options.only) - {step.name for step in STEPS}:
        raise SystemExit(f"--only must name steps that --list shows, got {', '.join(sorted(unknown))}")
    named = [step for step in STEPS if not options.only or step.name in options.only]
    return [step for step in named if step.cpu or options.device == "cuda"]


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
