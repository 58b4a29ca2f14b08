"""What is counted, for Prometheus; labels are models, versions and reasons, and never what a client sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from pipeline.serving.batcher import Batcher

_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)
_VERSION = ("model", "version")


class Metrics:
    """One server's."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "torchstone_requests", "Inference requests by HTTP status.", (*_VERSION, "status"), registry=self._registry
        )
        self._refused = Counter(
            "torchstone_refused", "Requests that were not answered.", ("reason",), registry=self._registry
        )
        self._seconds = Histogram(
            "torchstone_request_seconds", "From a request's head to its answer.", _VERSION, buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._call_seconds = Histogram(
            "torchstone_call_seconds", "A call of the model.", _VERSION, buckets=_SECONDS, registry=self._registry
        )
        self._call_rows = Histogram(
            "torchstone_call_rows", "Rows of a call, of one request or of several.", _VERSION, buckets=_ROWS,
            registry=self._registry,
        )  # fmt: skip
        self._waiting = Gauge(
            "torchstone_waiting_requests", "Requests that no call has taken up.", _VERSION, registry=self._registry
        )

    def refused(self, reason: str) -> None:
        """Count a request that was not answered."""
        self._refused.labels(reason).inc()

    def of(self, model: str, version: str) -> ModelMetrics:
        """The part of one version of a model."""
        return ModelMetrics(self, model, version)

    def text(self) -> bytes:
        """All, in Prometheus' text format."""
        return generate_latest(self._registry)


class ModelMetrics:
    """What is counted of one version of a model: its labels are looked up once."""

    def __init__(self, metrics: Metrics, model: str, version: str) -> None:
        labels = (model, version)
        self._requests, self._labels = metrics._requests, labels
        self._answered = metrics._requests.labels(*labels, "200")
        self._seconds = metrics._seconds.labels(*labels)
        self._call_seconds = metrics._call_seconds.labels(*labels)
        self._call_rows = metrics._call_rows.labels(*labels)
        self._waiting = metrics._waiting.labels(*labels)

    def watch(self, batcher: Batcher) -> None:
        """Show how much waits there, whenever it is looked at."""
        self._waiting.set_function(lambda: batcher.waiting_count)

    def answered(self, seconds: float) -> None:
        """Count an answer, and how long it took."""
        self._answered.inc()
        self._seconds.observe(seconds)

    def not_answered(self, status: int) -> None:
        """Count a request that was refused with this status."""
        self._requests.labels(*self._labels, str(status)).inc()

    def called(self, requests_count: int, rows: int, seconds: float) -> None:
        """Count a call of the model."""
        self._call_rows.observe(rows)
        self._call_seconds.observe(seconds)
