"""Energy is that of the GPU that is measured, which need not be NVML's first."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.timing.energy import energy_counter
from export.device import Device
from tests.bench.gpus.rig import Rig
from tests.fake_nvml import FakeGpu, install


def test_a_device_reads_its_own_boards_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeGpu(uuid="GPU-a", energy_mj=1000), FakeGpu(uuid="GPU-b", energy_mj=2000))
    assert [energy_counter(Rig("rig", index))() for index in (0, 1)] == [1.0, 2.0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert [energy_counter(Rig("rig", index))() for index in (0, 1)] == [2.0, 1.0]


def test_what_is_not_counted_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, FakeGpu())
    counter = energy_counter(Rig("rig"))
    fake.silent.add("*")
    assert (counter(), energy_counter(Rig("rig"))()) == (None, None)
    fake.silent = {"nvmlDeviceGetTotalEnergyConsumption"}
    assert energy_counter(Rig("rig"))() is None
    assert energy_counter(Rig("rig", 1))() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy_counter(Rig("rig"))() is None


def test_a_part_of_a_gpu_does_not_count_the_others_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FakeGpu(energy_mj=1000)
    whole.parts = [FakeGpu(uuid="MIG-c", whole=whole, energy_mj=1000)]
    install(monkeypatch, whole)
    assert energy_counter(Rig("rig"))() is None


def test_packages_of_the_processor_are_summed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bench.timing.energy._POWERCAP", tmp_path)
    counter = energy_counter(Device("cpu"))
    assert counter() is None
    for zone, used_uj in (("intel-rapl:0", 1_000_000), ("intel-rapl:1", 2_000_000), ("intel-rapl:0:0", 5_000_000)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{used_uj}\n")
    assert counter() == 3.0
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert counter() is None
