"""Device memory of a cold start: NVML's count, which makes no CUDA context between the timed parts."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from bench.timing.cold import ColdJob, DeviceMemory, first_answer
from export import registry
from export.backend import LoadOptions
from export.device import DEVICES, Device
from tests.bench.gpus.rig import Rig
from tests.conftest import Builder, environ
from tests.fake_nvml import FakeGpu, install

MIB = 1 << 20
OTHER = 1 << 30
"""No process's number."""


@pytest.mark.parametrize(
    ("before", "after", "used_after", "taken"),
    [
        ({}, {os.getpid(): 600 * MIB}, 900 * MIB, 600 * MIB),
        ({OTHER: 50 * MIB}, {OTHER: 250 * MIB, os.getpid(): 600 * MIB}, 900 * MIB, 600 * MIB),
        ({}, {OTHER: 600 * MIB}, 900 * MIB, 800 * MIB),  # a container that is not told its own processes' numbers
        ({}, {os.getpid(): None}, 900 * MIB, 800 * MIB),
        ({os.getpid(): 50 * MIB}, {os.getpid(): 50 * MIB}, 900 * MIB, 800 * MIB),  # another process, outside of it
        ({}, {}, 50 * MIB, 0),  # another process let go of more than this one took
    ],
)
def test_what_the_process_holds_is_counted_else_what_all_hold_more(
    before: dict[int, int | None],
    after: dict[int, int | None],
    used_after: int,
    taken: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = FakeGpu(used_bytes=100 * MIB, processes=before)
    install(monkeypatch, gpu)
    memory = DeviceMemory(Rig("rig"))
    gpu.processes, gpu.used_bytes = after, used_after
    assert memory.taken_bytes() == taken


def test_without_an_answer_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, FakeGpu())
    assert DeviceMemory(Device("cpu")).taken_bytes() is None
    memory = DeviceMemory(Rig("rig"))
    fake.silent.add("*")
    assert memory.taken_bytes() is None
    assert DeviceMemory(Rig("rig")).taken_bytes() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert DeviceMemory(Rig("rig")).taken_bytes() is None


def test_a_cold_start_says_what_it_took_of_the_gpu(build_model: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()
    install(monkeypatch, gpu)
    monkeypatch.setitem(DEVICES, "rig", Rig)
    real = registry.load

    def load(*arguments: Any) -> Any:
        gpu.processes = {os.getpid(): 600 * MIB}
        return real(*arguments)

    monkeypatch.setattr(registry, "load", load)
    job = ColdJob(
        artifact=str(build_model("Mlp", "onnx")[0]),
        options=LoadOptions(device="rig"),
        source=None,
        batch_rows=(1, 4),
        began_s=0.0,
    )
    assert first_answer(job).device_bytes == 600 * MIB


def test_looking_at_a_gpus_memory_imports_no_torch() -> None:
    """Torch, and the context that its own way of asking makes, belong to what is timed."""
    code = (
        "import sys; from bench.timing.cold import DeviceMemory; from export.device import device; "
        "assert 'torch' not in sys.modules, 'before'; "
        "DeviceMemory(device('cuda')).taken_bytes(); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ())
    assert done.returncode == 0, done.stderr
