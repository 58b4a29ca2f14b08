"""The recipe's metrics of an artifact against eager's, paired: on the same real labelled rows, resampled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.parity.check import Check, CheckStatus
from bench.parity.reference import EAGER, Reference
from bench.parity.store import load_case
from export.arrays import to_torch
from export.build import Source
from export.flat import has_names, name_outputs, refill
from export.signature import Signature
from pipeline.data import Metric, Split
from pipeline.recipe import Recipe
from pipeline.training.evaluate import call

_RESAMPLES = 200
_CONFIDENCE = 0.95


class Labelled:
    """Real rows with their labels. The metrics see what they see in training: the model's own nested result."""

    def __init__(
        self, recipe: Recipe, source: Source, split_name: str, split: Split | None, reference: Reference
    ) -> None:
        self._recipe = recipe
        self._split_name = split_name
        self._split = split
        self._reference = reference
        self._source = source
        self._template: Any = None

    def checks(self, reference_folder: Path, answers: Path, signature: Signature) -> list[Check]:
        """One check per metric; one that says so where there is none."""
        n = min(self._reference.real_rows_count, self._split.rows_count if self._split else 0)
        if self._split is None or not self._recipe.metrics or n == 0:
            message = "the recipe has no metric" if not self._recipe.metrics else "no labelled rows fit the signature"
            return [Check(level="metric", subject="metrics", status="unchecked", message=message)]
        targets = self._split.targets[:n]
        of_eager, of_artifact = (self._result(folder, signature, n) for folder in (reference_folder / EAGER, answers))
        return [
            self._check(f"{self._split_name}_{name}", metric, of_eager, of_artifact, targets)
            for name, metric in self._recipe.metrics.items()
        ]

    def _check(
        self,
        name: str,
        metric: Metric,
        eager: Callable[[torch.Tensor], Any],
        artifact: Callable[[torch.Tensor], Any],
        targets: torch.Tensor,
    ) -> Check:
        n, margin = len(targets), self._recipe.parity.metric_margin
        everything = torch.arange(n)
        before, after = metric(eager(everything), targets), metric(artifact(everything), targets)
        generator = torch.Generator().manual_seed(0)
        differences = []
        for _ in range(_RESAMPLES):
            rows = torch.randint(n, (n,), generator=generator)
            differences.append(metric(artifact(rows), targets[rows]) - metric(eager(rows), targets[rows]))
        tail = 100 * (1 - _CONFIDENCE) / 2
        low, high = (float(value) for value in np.percentile(differences, [tail, 100 - tail]))
        status: CheckStatus = "inconclusive"
        if -margin <= low and high <= margin:
            status = "pass"
        elif low > margin or high < -margin or not np.isfinite(after):
            status = "fail"
        message = (
            f"{name} {after:.4g}, eager {before:.4g}: changed by {after - before:.3g} [{low:.3g}, {high:.3g}] "
            f"on n={n} real rows, margin {margin:g}"
        )
        change = float(after - before)
        return Check(level="metric", subject=name, status=status, message=message, value=change, limit=margin)

    def _result(self, folder: Path, signature: Signature, n: int) -> Callable[[torch.Tensor], Any]:
        """The model's nested result on any of the first ``n`` rows, made from flat answers on disk."""
        parts: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in signature.output_names}
        for index in self._chunks(n):
            for name, array in load_case(folder, index, signature.output_names).items():
                parts[name].append(array)
        joined = {name: to_torch(np.concatenate(parts[name])[:n]) for name in signature.output_names}
        template = self._nested_result()
        own = list(name_outputs(template, ()))
        given = joined if has_names(template) else dict(zip(own, joined.values(), strict=True))
        return lambda rows: refill(template, {name: tensor[rows] for name, tensor in given.items()})

    def _chunks(self, n: int) -> Iterator[int]:
        """The cases that answer the pool from its first row on, one after the other."""
        reached = 0
        for index, case in enumerate(self._reference.cases):
            batch = self._recipe.signature.batch
            if case.group == "rows" and case.start == reached < n and batch is not None:
                yield index
                reached += case.sizes[batch]

    def _nested_result(self) -> Any:
        """What the model returns, for its structure alone."""
        if self._template is None:
            assert self._split is not None
            module = self._source.module()
            with torch.no_grad():
                self._template = call(self._recipe, module, self._split.take(slice(0, 2)))
        return self._template
