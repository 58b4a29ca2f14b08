"""Devices by name; and one that computes on the CPU and keeps account, led through capture, parity and timing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from bench.timing.roofline import RooflineJob, roofline
from bench.timing.sample import Candidate, SampleJob, sample
from bench.timing.spec import BenchSpec
from export import registry
from export.artifact import PROGRAM_FILE, open_artifact
from export.backend import LoadOptions
from export.device import DEVICES, Cuda, Device, choose, device
from export.errors import ContractError, UserError
from tests.model_run import ModelRun
from tests.models import SIGNATURES, make, source

ASKED: Counter[str] = Counter()


class Ledger(Device):
    """The CPU under another name, which may be slow to finish; what it was asked is counted by name."""

    kind: ClassVar[str] = "ledger"
    asynchronous: ClassVar[bool] = True

    def move(self, tensor: torch.Tensor) -> torch.Tensor:
        ASKED[f"move to {self.name}"] += 1
        return tensor

    def synchroniser(self) -> Callable[[], None]:
        def wait() -> None:
            ASKED[f"wait for {self.name}"] += 1

        return wait

    def timed_s(self, work: Callable[[], Any]) -> float | None:
        ASKED["timed_s"] += 1
        work()
        return 1e-3

    def strict_float32(self) -> None:
        ASKED["strict_float32"] += 1
        super().strict_float32()

    def enter_thread(self) -> None:
        ASKED["enter_thread"] += 1


@pytest.fixture(autouse=True)
def _ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(DEVICES, "ledger", Ledger)
    ASKED.clear()
    yield
    ASKED.clear()


@pytest.mark.parametrize("name", ["exported", "torchscript", "eager"])
def test_a_device_is_one_class_that_capture_parity_and_timing_ask(name: str, tmp_path: Path) -> None:
    where = "ledger:1"
    options = LoadOptions(device=where, threads_count=1)
    run = ModelRun(source("Mlp"), SIGNATURES["Mlp"], tmp_path / "run", device=where)
    artifact = run.build(name, tmp_path / name)
    report = run.judge(artifact, options)
    assert (report.status, report.witness.device) == ("pass", where)
    assert ASKED[f"move to {where}"] > 0
    assert ASKED["strict_float32"] > 0
    waited = ASKED[f"wait for {where}"]
    sampled = sample(
        SampleJob(
            candidates=(Candidate(label=name, folder=str(artifact), options=options),),
            source=source("Mlp"),
            spec=BenchSpec(batch_rows=(1,), processes_count=2, rounds_count=5, warmup_s=0.01, callers_s=0.01),
            samples=None,
            seed=0,
            process=0,
            current=str(tmp_path / "current"),
        )
    )
    assert len(sampled.series[name]) >= 1
    assert ASKED[f"wait for {where}"] - waited > 5 * 2
    assert ASKED["enter_thread"] > 0
    assert not [what for what in ASKED if what.endswith("ledger")]  # nobody forgot the index


def test_a_roofline_takes_the_devices_own_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.timing.roofline._SIDES_GPU", (32,))
    monkeypatch.setattr("bench.timing.roofline._COPIES_BYTES_GPU", (4096,))
    run = ModelRun(source("Mlp"), SIGNATURES["Mlp"], tmp_path / "run")
    roofline(
        RooflineJob(
            program=str(run.program / PROGRAM_FILE),
            signature=run.signature,
            spec=BenchSpec(batch_rows=(1,)),
            device="ledger",
            threads_counts=(1,),
        )
    )
    assert ASKED["timed_s"] > 0


def test_a_tensor_of_another_device_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ModelRun(source("Mlp"), SIGNATURES["Mlp"], tmp_path / "run")
    artifact = run.build("exported", tmp_path / "exported")
    runner = registry.load(artifact, LoadOptions(device="ledger"), lambda: make("Mlp"))
    inputs = open_artifact(artifact).signature.example({"batch": 3}, seed=0)
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    runner(tensors)
    monkeypatch.setattr(Ledger, "holds", lambda self, tensor: False)
    with pytest.raises(ContractError, match="must lie on ledger"):
        registry.load(artifact, LoadOptions(device="ledger"), lambda: make("Mlp"))(tensors)


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:12", 12)])
def test_any_gpu_has_its_number(name: str, index: int) -> None:
    where = device(name)
    assert isinstance(where, Cuda)
    assert (where.name, where.index, where.torch_name) == (name, index, f"cuda:{index}")


@pytest.mark.parametrize("name", ["gpu0", "cuda:", "cuda:-1", "cpu:1", "", "CUDA", "cuda:1:2"])
def test_what_is_no_device_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match="device must be"):
        device(name)


def test_without_a_gpu_auto_is_the_cpu_and_a_gpu_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(DEVICES, "ledger")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("auto").name == "cpu"
    with pytest.raises(UserError, match=r"no usable CUDA|has no CUDA"):
        choose("cuda:1")
