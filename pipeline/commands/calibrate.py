"""Calibrate parity on a recipe's own model: equivalent variants, and the weakest faults that would be seen.

    python -m pipeline.calibrate [RECIPE] [options]

Where an equivalent variant exceeds the recipe's thresholds they rise, for `pipeline.all` too, and every report says
so. Exit code 0: thresholds hold or were raised; 1: float32 does not determine this model; 2: usage or environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.cli import GOOD, NOT_GOOD, parse

if TYPE_CHECKING:
    from bench.parity.calibrate import Calibration
    from pipeline.run import Run


def main(arguments: Sequence[str], command: str = "python -m pipeline.calibrate") -> int:
    """Train (or reuse), trace, answer the reference's cases, then vary the model."""
    located, options = parse(arguments, command)
    from bench.parity.equivalent import ill_conditioned
    from export.device import choose
    from export.record import encode
    from pipeline.console import Console
    from pipeline.run import open_run
    from pipeline.stages.capture import capture
    from pipeline.stages.parity import ParityStage
    from pipeline.stages.train import train

    device = choose(options.device).name
    console = Console(quiet=options.quiet, json=options.json)
    with open_run(located, device, options.out, console) as run:
        trained = train(run)
        calibration = ParityStage(run, trained, capture(run, trained)).calibrate()
        show(run, calibration)
    if options.json:
        print(encode(calibration).decode())
    return NOT_GOOD if ill_conditioned(calibration.variants) else GOOD


def show(run: Run, calibration: Calibration) -> None:
    """Two tables: equivalent variants, and faults."""
    from rich import box
    from rich.table import Table

    from bench.parity.equivalent import ill_conditioned

    limits = calibration.thresholds
    honest = Table("equivalent variants", "of them", "largest RMS ratio", "largest peak ratio", box=box.SIMPLE)
    for kind in dict.fromkeys(variant.kind for variant in calibration.variants):
        same = [variant for variant in calibration.variants if variant.kind == kind]
        rms, peak = (max(getattr(variant, figure) for variant in same) for figure in ("rms_ratio", "peak_ratio"))
        honest.add_row(kind, str(len(same)), f"{rms:.2f}", f"{peak:.2f}")
    faults = Table("fault in this model", "weakest that fails", "strongest that passes", "ratio", box=box.SIMPLE)
    for sensitivity in calibration.sensitivities:
        faults.add_row(
            sensitivity.name,
            sensitivity.seen or "none: not seen",
            sensitivity.missed or "none: all are seen",
            f"{sensitivity.ratio:.3g}",
        )
    run.console.show(honest)
    run.console.show(faults)
    count = len(calibration.variants)
    lines = [
        f"thresholds: RMS {limits.max_rms_ratio:.3g}, peak {limits.max_peak_ratio:.3g}; of {count} equivalent variants "
        f"{calibration.would_fail_count} would fail the recipe's own",
        limits.raised and f"raised: {limits.raised}",
        ill_conditioned(calibration.variants),
    ]
    run.console.say("\n".join(filter(None, lines)))
