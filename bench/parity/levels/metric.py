"""The recipe's metrics on real labelled rows, measured by whoever has the recipe (pipeline/training/metrics.py)."""

from __future__ import annotations

from collections.abc import Iterable

from bench.parity.check import Check
from bench.parity.levels.fidelity import judged_by_metric
from bench.parity.levels.level import Context, Level


class Metric(Level):
    """What was measured; int8 and half precision need one: nothing else says whether they are good enough."""

    name = "metric"
    meaning = "the recipe's metrics, paired, on real labelled rows"

    def checks(self, context: Context) -> Iterable[Check]:
        """Those that were measured."""
        measured = list(super().checks(context))
        yield from measured
        judged = any(check.status in {"pass", "fail", "inconclusive"} for check in measured)
        if judged_by_metric(context.artifact) and not judged:
            precision = context.artifact.precision
            message = (
                f"{precision} is judged by the recipe's metric, and there is none: give it metrics and labelled data"
            )
            yield Check(level=self.name, subject="metrics", status="inconclusive", message=message)
