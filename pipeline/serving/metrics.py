"""What is counted, for Prometheus; labels are models, versions and reasons, and never what a client sent.

Counts are kept in plain numbers, in the event loop's thread, and made metrics when somebody looks: a request pays for
an addition, not for locks and labels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)
_VERSION = ("model", "version")


class Distribution:
    """How often values lay in which interval, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...]) -> None:
        """What was counted, cumulated as Prometheus has it."""
        buckets, total = [], 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric(labels, buckets, self._sum)


class ModelMetrics:
    """What is counted of one version of a model."""

    def __init__(self) -> None:
        self.statuses = Counter({200: 0})
        self.seconds = Distribution(_SECONDS)
        self.call_seconds = Distribution(_SECONDS)
        self.call_rows = Distribution(_ROWS)

    def answered(self, seconds: float) -> None:
        """Count an answer, and how long it took."""
        self.statuses[200] += 1
        self.seconds.add(seconds)

    def called(self, rows: int, seconds: float) -> None:
        """Count a call of the model."""
        self.call_rows.add(rows)
        self.call_seconds.add(seconds)


class Metrics(Collector):
    """One server's."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        """Requests that were not answered, by reason; ``defect`` is the server's own fault, ``gone`` the client's."""
        self.waiting: Callable[[], Mapping[tuple[str, str], int]] = dict
        """Asked when somebody looks, for requests that wait by model and version: what is not served leaves nothing."""
        self._models: dict[tuple[str, str], ModelMetrics] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def of(self, model: str, version: str) -> ModelMetrics:
        """The part of one version of a model, which goes on where it was if that comes back."""
        return self._models.setdefault((model, version), ModelMetrics())

    def text(self) -> bytes:
        """All, in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What ``generate_latest`` asks for."""
        requests = CounterMetricFamily("torchstone_requests", "Requests by status.", labels=(*_VERSION, "status"))
        waiting = GaugeMetricFamily("torchstone_waiting_requests", "That no call has taken up.", labels=_VERSION)
        for labels, model in self._models.items():
            for status, count in model.statuses.items():
                requests.add_metric((*labels, str(status)), count)
        for labels, count in self.waiting().items():
            waiting.add_metric(labels, count)
        yield from (requests, waiting)
        yield self._histogram("request_seconds", "From a request's head to its answer.", lambda model: model.seconds)
        yield self._histogram("call_seconds", "A call of the model.", lambda model: model.call_seconds)
        yield self._histogram("call_rows", "Rows of a call.", lambda model: model.call_rows)
        yield _by_reason(self.refused)

    def _histogram(self, name: str, text: str, part: Callable[[ModelMetrics], Distribution]) -> Metric:
        family = HistogramMetricFamily(f"torchstone_{name}", text, labels=_VERSION)
        for labels, model in self._models.items():
            part(model).add_to(family, labels)
        return family


def _by_reason(counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily("torchstone_refused", "Requests that were not answered.", labels=("reason",))
    for reason, count in counts.items():
        family.add_metric((reason,), count)
    return family
