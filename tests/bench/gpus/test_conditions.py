"""The GPU's state is recorded while something is measured on it; what is bad is said once, with its number."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import pytest

from bench.timing.conditions import Conditions, Watch, warnings
from bench.timing.contender import Candidate
from bench.timing.gpu_conditions import GpuConditions
from bench.timing.sample import SampleJob, sample
from bench.timing.spec import BenchSpec
from export.backend import LoadOptions
from export.device import DEVICES, Device
from export.record import from_json, to_json
from tests.bench.gpus.rig import Rig
from tests.conftest import Builder
from tests.fake_nvml import FakeGpu, install
from tests.models import source

MIB = 1 << 20
SELF, PARENT, OTHER = os.getpid(), os.getppid(), 1 << 30
"""The last is no process's number."""
QUIET = Conditions(
    steal_share=0.0, foreign_share=0.0, load_before=0.0, involuntary_switches_count=0, swapped_bytes=0,
    throttled_count=0, cores_count=2, capacity_cores=2.0,
)  # fmt: skip


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu(processes={SELF: 600 * MIB, PARENT: 400 * MIB})


def watched(gpu: FakeGpu, work: FakeGpu | None = None) -> GpuConditions:
    """The conditions of a measurement; ``work`` is how the GPU looks right after it, and then no longer."""
    idle = replace(gpu)
    watch = Watch(1, Rig("rig"))
    for _ in range(2):
        vars(gpu).update(vars(work or idle))
        watch.look()
        vars(gpu).update(vars(idle))
    conditions = watch.stop()
    assert conditions.gpu is not None
    return conditions.gpu


def kinds(gpu: GpuConditions | None) -> list[str]:
    return [warning.kind for warning in warnings(replace(QUIET, gpu=gpu))]


def test_an_undisturbed_gpu_has_figures_and_no_warning(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, gpu)
    conditions = watched(gpu)
    assert conditions.facts is not None
    assert conditions.facts.name == "NVIDIA H100"
    assert conditions == GpuConditions(
        facts=conditions.facts, unread=None, sm_clock_start_mhz=1980, sm_clock_end_mhz=1980, sm_clock_highest_mhz=1980,
        throttles=(), power_watts=117.37, temperature_celsius=36, foreign_processes_count=0, foreign_bytes=0,
    )  # fmt: skip
    assert kinds(conditions) == []
    assert from_json(GpuConditions, to_json(conditions)) == conditions


def test_a_gpu_that_is_slowed_while_it_works_is_said_to_be(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it has recovered when the measurement ends."""
    install(monkeypatch, gpu)
    conditions = watched(gpu, replace(gpu, sm_mhz=1200, throttle_bits=0x4 | 0x20))
    assert conditions.throttles == ("power cap", "heat, by the driver")
    assert kinds(conditions) == ["gpu-throttled"]
    (warning,) = warnings(replace(QUIET, gpu=conditions))
    assert "slowed by power cap and heat, by the driver" in warning.message
    assert "1200 MHz at the end, at best 1980 MHz" in warning.message


def test_clocks_that_somebody_fixed_are_no_fault(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, gpu)
    conditions = watched(gpu, replace(gpu, sm_mhz=1200, throttle_bits=0x2))
    assert (conditions.throttles, kinds(conditions)) == (("clocks set by the user",), [])


@pytest.mark.parametrize(("held", "shown"), [(300 * MIB, "300 MiB"), (None, "an unknown part")])
def test_a_shared_gpu_is_said_to_be(
    held: int | None, shown: str, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose processes of this run, its parent's too, are no strangers."""
    install(monkeypatch, gpu)
    conditions = watched(gpu, replace(gpu, processes=gpu.processes | {OTHER: held}))
    assert (conditions.foreign_processes_count, conditions.foreign_bytes) == (1, held)
    (warning,) = warnings(replace(QUIET, gpu=conditions))
    assert warning.kind == "gpu-shared"
    assert f"1 other processes were on the GPU, with {shown} of its memory" in warning.message


def test_in_a_container_nobody_is_called_foreign_by_a_number_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, gpu := FakeGpu(processes={OTHER: 600 * MIB}))
    conditions = watched(gpu)
    assert (conditions.foreign_processes_count, conditions.foreign_bytes) == (None, None)
    assert kinds(conditions) == []


def test_what_nvml_does_not_tell_is_not_known_and_that_it_tells_nothing_is_said(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = install(monkeypatch, gpu)
    watch = Watch(1, Rig("rig"))
    fake.silent.add("*")
    silenced = watch.stop().gpu
    assert silenced is not None
    assert silenced == GpuConditions(facts=None, unread="NVML no longer answers for it")
    assert kinds(silenced) == ["gpu-unread"]
    refused = watched(gpu)
    assert refused == GpuConditions(facts=None, unread="NVML does not answer: Not Supported")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    missing = watched(gpu)
    assert kinds(missing) == ["gpu-unread"]
    assert "[gpu]'" in warnings(replace(QUIET, gpu=missing))[0].message


def test_on_the_cpu_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    watch = Watch(1, Device("cpu"))
    watch.look()
    conditions = watch.stop()
    assert conditions.gpu is None
    assert "gpu" not in to_json(conditions)
    assert kinds(None) == []


def test_a_measuring_process_looks_right_after_its_work(
    build_model: Builder, monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu, tmp_path: object
) -> None:
    fake = install(monkeypatch, gpu)
    monkeypatch.setitem(DEVICES, "rig", Rig)
    gpu.throttle_bits = 0x40
    clocks = iter(range(100, 200))
    monkeypatch.setattr(fake, "nvmlDeviceGetClockInfo", lambda gpu, kind: next(clocks), raising=False)
    folder = build_model("Mlp", "torchscript")[0]
    job = SampleJob(
        candidates=(
            Candidate(label="torchscript", folder=str(folder), options=LoadOptions(device="rig"), whole=False),
        ),
        source=source("Mlp"),
        spec=BenchSpec(batch_rows=(1, 4), processes_count=2, rounds_count=5, warmup_s=0.01, callers_s=0.01),
        samples=None,
        seed=0,
        process=0,
        current=f"{tmp_path}/current",
    )
    conditions = sample(job).conditions.gpu
    assert conditions is not None
    assert (conditions.sm_clock_start_mhz, conditions.sm_clock_end_mhz) == (101, 103)  # 100 is of the making
    assert conditions.throttles == ("heat, by the hardware",)
