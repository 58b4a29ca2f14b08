"""The recipe's metrics on real labelled rows, measured by whoever has the recipe (pipeline/training/metrics.py)."""

from __future__ import annotations

from collections.abc import Iterable

from bench.parity.check import Check
from bench.parity.levels.fidelity import is_quantized
from bench.parity.levels.level import Context, Level


class Metric(Level):
    """What was measured; int8 needs one, since nothing else can judge it."""

    name = "metric"
    meaning = "the recipe's metrics, paired, on real labelled rows"

    def checks(self, context: Context) -> Iterable[Check]:
        """Those that were measured."""
        measured = list(super().checks(context))
        yield from measured
        judged = any(check.status in {"pass", "fail", "inconclusive"} for check in measured)
        if is_quantized(context.artifact.precision) and not judged:
            message = "int8 is judged by the recipe's metric, and there is none: give it metrics and labelled data"
            yield Check(level=self.name, subject="metrics", status="inconclusive", message=message)
