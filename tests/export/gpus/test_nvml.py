"""Which GPU is meant, and what NVML tells of it; and where it does not answer, why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from export import hints
from export.gpus import listed, nvml
from export.gpus.nvml import Board, GpuFacts, board, visible
from tests.conftest import environ
from tests.fake_nvml import FakeGpu, FakeNvml, install

FIRST, SECOND = FakeGpu(uuid="GPU-aaaa-1"), FakeGpu(uuid="GPU-bbbb-2")
DIVIDED = FakeGpu(uuid="GPU-cccc-3")
DIVIDED.parts = [
    FakeGpu(name=f"NVIDIA H100 MIG {profile}", uuid=f"MIG-{uuid}", whole=DIVIDED)
    for profile, uuid in (("1g.10gb", "dddd-4"), ("3g.40gb", "eeee-5"))
]


def uuid_of(index: int) -> str:
    """Of a device number's board, or why there is none."""
    answer = board(index)
    return answer.listed.uuid if isinstance(answer, Board) else answer


@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        (None, ["GPU-aaaa-1", "GPU-bbbb-2", "MIG-dddd-4"]),
        ("1,0", ["GPU-bbbb-2", "GPU-aaaa-1"]),
        (" 1 ", ["GPU-bbbb-2"]),
        ("GPU-bbbb-2", ["GPU-bbbb-2"]),
        ("GPU-bb", ["GPU-bbbb-2"]),
        ("GPU-", []),
        ("MIG-eeee-5", ["MIG-eeee-5"]),
        ("MIG-ee,0", ["MIG-eeee-5", "GPU-aaaa-1"]),
        ("GPU-cccc-3", ["MIG-dddd-4"]),
        ("1,-1,0", ["GPU-bbbb-2"]),
        ("1,7,0", ["GPU-bbbb-2"]),
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_a_devices_number_is_its_place_among_the_visible(
    setting: str | None, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FIRST, SECOND, DIVIDED)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert [uuid_of(index) for index in range(len(seen))] == seen
    assert len(visible()) == len(seen)
    assert f"NVML lists {len(seen)} GPUs that are visible" in uuid_of(len(seen))


def test_unlike_gpus_are_told_apart_only_where_cudas_order_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA puts the fastest first unless it is told to count by bus, as NVML does."""
    install(monkeypatch, FIRST, FakeGpu(name="NVIDIA L4", uuid="GPU-ffff-6"))
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in uuid_of(0)
    assert visible() == ("NVIDIA H100", "NVIDIA L4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-ffff-6")
    assert (uuid_of(0), visible()) == ("GPU-ffff-6", ("NVIDIA L4",))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in uuid_of(0)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert uuid_of(0) == "GPU-ffff-6"


def test_a_gpu_has_its_facts_and_a_part_those_of_the_whole_where_it_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FIRST, DIVIDED)
    for index, name, uuid in ((0, "NVIDIA H100", "GPU-aaaa-1"), (1, "NVIDIA H100 MIG 1g.10gb", "MIG-dddd-4")):
        answer = board(index)
        assert isinstance(answer, Board)
        assert answer.facts == GpuFacts(
            name=name,
            uuid=uuid,
            driver="580.159.04",
            newest_toolkit="13.0",
            memory_bytes=80 << 30,
            power_limit_watts=700.0,
        )


def test_reasons_of_low_clocks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()
    fake = install(monkeypatch, gpu)
    answer = board(0)
    assert isinstance(answer, Board)
    assert answer.throttles() == ()
    gpu.throttle_bits = 0x1 | 0x4 | 0x40 | 0x1000
    assert answer.throttles() == ("power cap", "heat, by the hardware", "0x1000")
    fake.silent.add("nvmlDeviceGetCurrentClocksThrottleReasons")
    assert answer.throttles() is None


def test_every_error_is_none_and_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, FakeGpu())
    answer = board(0)
    assert isinstance(answer, Board)
    fake.silent.add("*")
    assert answer.facts == GpuFacts(
        name="NVIDIA H100",
        uuid="GPU-aaaa-1",
        driver=None,
        newest_toolkit=None,
        memory_bytes=None,
        power_limit_watts=None,
    )
    assert (answer.used_bytes(), answer.process_bytes(), answer.throttles()) == (None, None, None)
    assert board(0) == "NVML does not answer: Not Supported"
    assert visible() == ()
    fake.silent = {"nvmlDeviceGetCount"}
    assert board(0) == "NVML lists no GPU"


def without_nvml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """No module, and a command ``nvidia-smi`` that runs this script; the driver's files lie in ``tmp_path``."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(listed, "DRIVER_FILES", tmp_path)
    monkeypatch.setattr(nvml, "DRIVER_FILES", tmp_path)
    if script:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)


def test_without_the_module_the_drivers_command_lists_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = (
        "GPU 0: NVIDIA H100 (UUID: GPU-aaaa-1)\nGPU 1: NVIDIA L4 (UUID: GPU-bbbb-2)\n"
        "  MIG 1g.6gb      Device  0: (UUID: MIG-cccc-3)"
    )
    without_nvml(monkeypatch, tmp_path, f"cat <<'END'\n{lines}\nEND")
    assert visible() == ("NVIDIA H100", "NVIDIA L4")  # which of the two is the faster it does not tell
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-cccc")
    assert visible() == ("NVIDIA L4 MIG 1g.6gb",)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible() == ()
    assert "pip install" in uuid_of(0)
    assert "[gpu]'" in uuid_of(0)


@pytest.mark.parametrize("script", ["", "exit 9"])
def test_without_both_the_drivers_own_files_do(script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_nvml(monkeypatch, tmp_path, script)
    if not script:
        monkeypatch.setenv("PATH", "")
    assert (visible(), nvml.driver_version()) == ((), None)
    folder = tmp_path / "gpus" / "0000:19:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text("Model: \t\t NVIDIA H100\nIRQ:   \t\t 0\nGPU UUID: \t GPU-aaaa-1\n")
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue Jul  8\n")
    assert (visible(), nvml.driver_version()) == (("NVIDIA H100",), "580.159.04")


def test_asking_imports_no_torch() -> None:
    code = (
        "import sys; from export.gpus.nvml import board, visible; "
        "board(0); visible(); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ())
    assert done.returncode == 0, done.stderr


@pytest.mark.extra
def test_the_real_module_knows_every_question_that_the_fake_one_answers() -> None:
    """A function that it does not know would be an answer that is silently missing."""
    real = pytest.importorskip("pynvml", reason=f"extra: {hints.install('gpu')}")
    asked = [name for name in vars(FakeNvml) if name.startswith("nvml")]
    assert len(asked) > 15
    assert [name for name in asked if not hasattr(real, name)] == []
    assert (real.NVML_CLOCK_SM, real.NVML_TEMPERATURE_GPU) == (FakeNvml.NVML_CLOCK_SM, FakeNvml.NVML_TEMPERATURE_GPU)
    assert issubclass(real.NVMLError, Exception)
