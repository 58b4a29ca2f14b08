"""The records of a bundle.

``pipeline/verifier`` reads them without this package: a change of names or shape is a new version of the schema, which
``pipeline/verifier/upgrade.py`` has to know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from bench.parity.report import ParityStatus, TestedSizes
from bench.verdict.limits import Limits
from export.backend import LoadOptions
from export.environment import Environment
from export.files import FileDigest
from export.record import OMITTED, Record
from export.signature import Signature
from pipeline.verifier.files import MANIFEST_SCHEMA
from pipeline.verifier.upgrade import BUNDLE_SCHEMA


@dataclass(frozen=True, kw_only=True)
class Manifest(Record):
    """``manifest.json``: every file of the bundle but itself and its signature, sorted by path."""

    SCHEMA: ClassVar[str] = MANIFEST_SCHEMA

    key: str
    files: tuple[FileDigest, ...]


@dataclass(frozen=True, kw_only=True)
class GoldenOutput:
    """Where one output of a golden call lies, as ``.npy``."""

    expected: str
    """The float64 answer."""
    allowed: str
    """What each element may differ by."""
    dtype: str
    """The dtype of the artifact's answer."""


@dataclass(frozen=True, kw_only=True)
class GoldenCall:
    """A call whose answer is known."""

    name: str
    sizes: dict[str, int]
    real: bool
    """Whether its rows are real ones, on which a quantised artifact is judged."""
    inputs: dict[str, str]
    outputs: dict[str, GoldenOutput]


@dataclass(frozen=True, kw_only=True)
class ClaimedLatency:
    """Seconds per bound call at one batch size, and per call of the reference workload timed in turn with it."""

    batch_rows: int
    median_s: float
    workload_s: float | None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the check that travels along measured where the bundle was made."""

    cold_s: float
    peak_bytes: int | None
    latency: tuple[ClaimedLatency, ...]


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """One artifact in the bundle."""

    name: str
    backend: str
    runtime: str
    """``onnxruntime``, ``torch`` or ``openvino``: what runs it."""
    precision: str
    file: str
    """The file that is loaded, relative to the bundle."""
    size_bytes: int
    options: LoadOptions
    """How it was loaded for parity and measured: it is served in no other way."""
    tested_sizes: dict[str, TestedSizes]
    """By symbol of a dynamic dimension: the smallest and largest size that it may be asked."""
    parity: ParityStatus
    allow_no_reference: bool
    least_sqnr_db: float | None
    """The least signal over noise of a quantised artifact's golden answers; None for the others."""
    needs: dict[str, str]
    """What its files need on the target, read from them."""
    peak_bytes: int
    """The memory of a process that holds it alone; 0 where it was not measured."""
    artifact_sha256: str
    parity_sha256: str
    lowered_from: str | None
    """The digest of the artifact that this was lowered from for an older runtime; None if it is the judged one."""
    claim: Claim | None


@dataclass(frozen=True, kw_only=True)
class Bundle(Record):
    """``bundle.json``: what is shipped, how it is to be run, and where its proof lies."""

    SCHEMA: ClassVar[str] = BUNDLE_SCHEMA

    name: str
    version: str
    """The version of Torchstone."""
    licence: str | None
    default: str
    """The artifact that a check runs if it is asked for none."""
    winner: str
    shipped: tuple[Shipped, ...]
    signature: Signature
    batch: str | None
    """The symbol that counts rows."""
    rows_together: bool = field(default=False, metadata=OMITTED)
    """Whether the rows of a call look at each other, or were drawn together: a server must not join requests."""
    golden: tuple[GoldenCall, ...]
    timed_rows: tuple[int, ...]
    workload: str
    """The reference workload, an ONNX file."""
    limits: Limits
    target_ort: str | None
    """The ONNX Runtime that ``model.onnx`` was lowered for and accepted in; None if it is as exported."""
    verdict_sha256: str
    environment: Environment
