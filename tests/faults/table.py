"""The detection table: our verdict beside the criteria of others, on the same faults and on the same right artifacts.

    python -m tests.faults.table [--seeds N]

Every kind of fault on every model and in every backend that it can be planted in; then right artifacts of the same
models. Takes about a quarter of an hour on 2 cores. Exit code 0 only if every fault is caught by the right level, the
locator is right in at least 95 % of the faults that have a place, and no right artifact fails.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench.parity.report import ParityReport
from tests.faults.criteria import CRITERIA, accepted
from tests.faults.legitimate import COMPILED_SEEDS, SEEDS, as_planted, judge, variants
from tests.faults.planted import KINDS, ModelRuns, caught, is_right, judged, located, plant, undone

_LOCATABLE = ("exported", "onnx")
"""TorchScript keeps no names of inner values: only its weights and settings point at a module."""
_LEAST_LOCATED = 0.95


@dataclass
class Row:
    """One kind of fault, over its models and backends."""

    cases: int = 0
    caught: int = 0
    missed_by: Counter[str] = field(default_factory=Counter)
    levels: Counter[str] = field(default_factory=Counter)


def main(arguments: list[str]) -> int:
    """Print both tables."""
    warnings.simplefilter("ignore")
    seeds = SEEDS[: int(arguments[arguments.index("--seeds") + 1])] if "--seeds" in arguments else SEEDS
    with tempfile.TemporaryDirectory() as folder:
        faults_good = _faults(ModelRuns(Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        right_good = _right(Path(folder), seeds)
    return 0 if faults_good and right_good else 1


def _faults(runs: ModelRuns) -> bool:
    rows: dict[str, Row] = {}
    placed = named_right = named_exactly = 0
    wrong: list[str] = []
    taken_out: list[str] = []
    for kind in KINDS:
        row = rows.setdefault(kind.name, Row())
        for model in kind.models:
            for backend in ("onnx",) if kind.where == "onnx" else kind.backends:
                planted = plant(kind, model, backend, runs)
                report = judged(runs, model, planted)
                if (
                    isinstance(report, ParityReport)
                    and report.status == "pass"
                    and undone(runs, model, backend, planted)
                ):
                    taken_out.append(f"{kind.name} ({model}, {backend})")
                    continue
                row.cases += 1
                if caught(kind, report):
                    row.caught += 1
                else:
                    wrong.append(f"not caught: {kind.name}, {model}, {backend}: {report}"[:600])
                row.levels.update(["load"] if isinstance(report, str) else report.failed_levels)
                row.missed_by.update(word for word, yes in accepted(runs(model), planted).items() if yes)
                if planted.module is None or backend not in _LOCATABLE:
                    continue
                placed += 1
                location = located(runs, model, planted, report)
                if is_right(location, planted.module):
                    named_right += 1
                    named_exactly += is_right(location, planted.module, exactly=True)
                else:
                    wrong.append(f"not located: {kind.name}, {model}, {backend}: {planted.module}, {location}"[:600])
        print(f"  {kind.name}: {row.caught} of {row.cases}", file=sys.stderr, flush=True)
    cases = sum(row.cases for row in rows.values())
    print(f"## Faults\n\n{len(rows)} kinds, {cases} artifacts. Missed, of the artifacts of each kind:\n")
    print(f"| fault | artifacts | Torchstone | {' | '.join(CRITERIA)} | levels that fail |")
    print("|---|--:|--:|" + "--:|" * len(CRITERIA) + "---|")
    for name, row in rows.items():
        others = " | ".join(str(row.missed_by[word]) for word in CRITERIA)
        levels = ", ".join(level for level, _ in row.levels.most_common(4))
        print(f"| {name} | {row.cases} | {row.cases - row.caught} | {others} | {levels} |")
    missed = {word: sum(row.missed_by[word] for row in rows.values()) for word in CRITERIA}
    caught_count = sum(row.caught for row in rows.values())
    totals = " | ".join(f"**{missed[word]} ({missed[word] / cases:.0%})**" for word in CRITERIA)
    print(f"| **all** | **{cases}** | **{cases - caught_count}** | {totals} | |")
    print(
        f"\nThe locator named the right module in {named_right} of {placed} faults that have a place: in "
        f"{named_exactly} as the first suspect, in the others among the modules between two values that both have.\n"
    )
    if taken_out:
        names = ", ".join(taken_out)
        print(f"Not counted, since the exporter took the fault out again, to the bit: {names}.\n")
    print("\n".join(wrong))
    return caught_count == cases and named_right >= _LEAST_LOCATED * placed


def _right(base: Path, seeds: tuple[int, ...]) -> bool:
    count = 0
    alarms: Counter[str] = Counter()
    wrong = []
    ratios: dict[str, tuple[float, float]] = {}
    for model, seed, found in variants(seeds, COMPILED_SEEDS):
        for variant, report, run in judge(base, model, seed, found):
            count += 1
            if report.status != "pass":
                alarms["Torchstone"] += 1
                wrong.append(f"false alarm: {variant.name}: {report.reasons}"[:600])
            if variant.backend != "eager":
                alarms.update(
                    word for word, yes in accepted(run, as_planted(run, variant), variant.options).items() if not yes
                )
            rms, peak = ratios.get(variant.backend, (0.0, 0.0))
            ratios[variant.backend] = (
                max(rms, *(output.rms_ratio for output in report.outputs)),
                max(peak, *(output.peak_ratio for output in report.outputs)),
            )
        print(
            f"  {model} {seed}: {count} right artifacts so far, {alarms['Torchstone']} alarms",
            file=sys.stderr,
            flush=True,
        )
    print(f"## Right artifacts\n\n{count} of them. False alarms:\n")
    print(f"| Torchstone | {' | '.join(CRITERIA)} |\n|--:|" + "--:|" * len(CRITERIA))
    print(f"| {alarms['Torchstone']} | {' | '.join(str(alarms[word]) for word in CRITERIA)} |\n")
    print("| backend | largest RMS ratio | largest peak ratio |\n|---|--:|--:|")
    for backend, (rms, peak) in ratios.items():
        print(f"| {backend} | {rms:.2f} | {peak:.2f} |")
    print("\n" + "\n".join(wrong))
    return not alarms["Torchstone"]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
