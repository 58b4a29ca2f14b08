"""The records of a bundle. ``pipeline/verifier/verify.py`` reads them without this package: change both together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench.parity.report import ParityStatus, TestedSizes
from bench.verdict.limits import Limits
from export.backend import LoadOptions
from export.environment import Environment
from export.record import FileDigest, Record
from export.signature import Signature


@dataclass(frozen=True, kw_only=True)
class Manifest(Record):
    """``manifest.json``: every file of the bundle but itself and its signature, sorted by path."""

    SCHEMA: ClassVar[str] = "torchstone.manifest/1"

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
    """Of the artifact's answer."""


@dataclass(frozen=True, kw_only=True)
class GoldenCall:
    """A call whose answer is known."""

    name: str
    sizes: dict[str, int]
    real: bool
    """Whether its rows are real ones, on which int8 is judged."""
    inputs: dict[str, str]
    outputs: dict[str, GoldenOutput]


@dataclass(frozen=True, kw_only=True)
class ClaimedLatency:
    """Per bound call at one batch size, and of the calibration kernel timed in turn with it."""

    batch_rows: int
    median_s: float
    workload_s: float | None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the very check that travels along measured where the bundle was made."""

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
    """How it was proved and measured: it is served in no other way."""
    tested_sizes: dict[str, TestedSizes]
    """Per dynamic dimension the sizes that it may be asked."""
    parity: ParityStatus
    allow_no_reference: bool
    least_sqnr_db: float | None
    """For int8, which golden answers judge by signal over noise; None for the others."""
    needs: dict[str, str]
    """What its files need on the target, read from them."""
    peak_bytes: int
    """Of a process that holds it alone; 0 where it was not measured."""
    artifact_sha256: str
    parity_sha256: str
    lowered_from: str | None
    """The digest of the artifact that this was lowered from for an older runtime; None if it is the judged one."""
    claim: Claim | None


@dataclass(frozen=True, kw_only=True)
class Bundle(Record):
    """``bundle.json``: what is shipped, how it is to be run, and where its proof lies."""

    SCHEMA: ClassVar[str] = "torchstone.bundle/1"

    name: str
    version: str
    """Of Torchstone."""
    licence: str | None
    default: str
    """The artifact that a check runs if it is asked for none."""
    winner: str
    shipped: tuple[Shipped, ...]
    signature: Signature
    batch: str | None
    """The symbol that counts rows."""
    golden: tuple[GoldenCall, ...]
    timed_rows: tuple[int, ...]
    kernel: str
    """The calibration kernel, an ONNX file."""
    limits: Limits
    target_ort: str | None
    """The ONNX Runtime that ``model.onnx`` was lowered for and proved in; None if it is as exported."""
    verdict_sha256: str
    environment: Environment
