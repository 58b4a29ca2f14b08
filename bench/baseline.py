"""The speed gate's committed baseline, and whether it is one for this machine and for a run's device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench.parity.report import ParityReport
from bench.run_folder import RunFolder
from export.device import Device, device
from export.environment import DRIVER, TOOLKIT, environment
from export.record import Observed, Record, observed, read
from export.registry import BASELINE

BASELINE_FILE = Path(__file__).parent / "baseline.json"
_RELEVANT = ("torch", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino")
"""Distributions whose versions decide how fast an artifact runs."""
_RELEVANT_ON_GPU = (DRIVER, TOOLKIT, "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "triton")
Logs = Mapping[str, Sequence[float]]
"""By ``artifact at batch``: one log-ratio to eager per process."""


@dataclass(frozen=True, kw_only=True)
class Baseline(Record):
    """Ratios to eager that a later change is held to."""

    SCHEMA: ClassVar[str] = "torchstone.baseline/2"

    cpu: str
    cores_count: int
    device: str
    """Where the artifacts ran: ``cpu``, or a GPU as the run names it."""
    gpus: tuple[str, ...]
    """Names of the machine's GPUs; none where the artifacts ran on the CPU."""
    versions: dict[str, str]
    logs: dict[str, tuple[float, ...]]
    """By ``artifact at batch``: log of its time over eager's, one per fresh process."""
    observed: Observed


def relevant_versions(where: Device) -> dict[str, str]:
    """Installed versions that decide how fast an artifact runs; on a GPU the driver's and its libraries' too."""
    names = _RELEVANT + (_RELEVANT_ON_GPU if where.asynchronous else ())
    return {name: version for name, version in environment().versions.items() if name in names}


def device_of(run: Path) -> Device:
    """Where eager, and with it every artifact of the run, was judged."""
    return device(read(ParityReport, RunFolder(run).parity_report(BASELINE)).options.device)


def new_baseline(run: Path, logs: Logs) -> Baseline:
    """What was measured of the run here."""
    machine, where = environment().machine, device_of(run)
    return Baseline(
        cpu=machine.cpu,
        cores_count=machine.cores_count,
        device=where.name,
        gpus=machine.gpus if where.asynchronous else (),
        versions=relevant_versions(where),
        logs={what: tuple(ratios) for what, ratios in logs.items()},
        observed=observed(0.0),
    )


def committed(run: Path) -> tuple[Baseline | None, str]:
    """The committed baseline if it is this machine's and of the run's device, and why not otherwise."""
    if not BASELINE_FILE.exists():
        return None, f"there is no {BASELINE_FILE.name}"
    baseline, here = read(Baseline, BASELINE_FILE), new_baseline(run, {})
    for field, stored, present in (
        ("processor", baseline.cpu, here.cpu),
        ("cores", baseline.cores_count, here.cores_count),
        ("device", baseline.device, here.device),
        ("GPUs", baseline.gpus, here.gpus),
        ("versions", baseline.versions, here.versions),
    ):
        if stored != present:
            return None, f"the committed baseline has other {field}: {stored}, here {present}"
    if device(here.device).asynchronous and not here.gpus:
        return None, f"which GPU {here.device} is cannot be known here: the driver lists none"
    return baseline, ""
