"""Devices by name; and one that computes on the CPU and keeps account, led through capture, parity and timing."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from bench.timing.contender import Candidate
from bench.timing.roofline import RooflineJob, roofline
from bench.timing.sample import SampleJob, sample
from bench.timing.spec import BenchSpec
from export import registry
from export.artifact import PROGRAM_FILE, open_artifact
from export.backend import LoadOptions
from export.backends.torchscript import make_tensors_on, opened_graph
from export.device import DEVICES, Cuda, Device, choose, device
from export.errors import ContractError, UserError
from tests.conftest import Builder
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

    def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """As a graph does: each replay reads the same inputs, and writes into the results of the first call.

        It keeps none of them alive.
        """
        reads = inspect.getclosurevars(call).nonlocals
        session, inputs = reads["self"], [weakref.ref(tensor) for tensor in reads["tensors"]]
        results = call()

        def replay() -> Any:
            ASKED["replayed"] += 1
            tensors = [tensor() for tensor in inputs]
            assert None not in tensors, "the graph reads memory that was given back"
            for result, value in zip(results, session._run(tensors), strict=True):
                result.copy_(value)
            return results

        return replay


class Meta(Device):
    """Tensors without values: an operator that meets one of the CPU raises, as it would between a CPU and a GPU."""

    kind: ClassVar[str] = "meta"

    @property
    def torch_name(self) -> str:
        return "meta"


class Placed(torch.nn.Module):
    """Adds each row's number, which it makes on the device of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        numbered: torch.Tensor = self.inner(x) + torch.arange(x.shape[0], device=x.device, dtype=x.dtype)[:, None]
        return numbered


def test_a_trace_makes_its_tensors_on_the_device_that_it_is_loaded_on(tmp_path: Path) -> None:
    traced: Any = torch.jit.trace(torch.nn.Sequential(Placed()).eval(), torch.randn(2, 3))
    traced.save(str(tmp_path / "model.pt"))
    there = torch.randn(5, 3, device="meta")
    answer = opened_graph(tmp_path / "model.pt", Meta("meta"))(there)
    assert (answer.device.type, tuple(answer.shape)) == ("meta", (5, 3))
    moved_weights_alone = torch.jit.load(str(tmp_path / "model.pt"), map_location="meta")
    with pytest.raises(RuntimeError, match=r"device|meta"):
        moved_weights_alone(there)


def test_so_does_a_frozen_one() -> None:
    """Its weights are constants too, which this torch cannot load without values."""
    frozen: Any = torch.jit.freeze(torch.jit.trace(Placed().eval(), torch.randn(2, 3)))
    assert 'Device = prim::Constant[value="cpu"]' in str(frozen.graph)
    make_tensors_on(frozen, device("cuda:1"))
    assert 'Device = prim::Constant[value="cuda:1"]' in str(frozen.graph)
    assert '"cpu"' not in str(frozen.graph)


@pytest.fixture(autouse=True)
def _ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(DEVICES, "ledger", Ledger)
    ASKED.clear()
    yield
    ASKED.clear()


@pytest.mark.parametrize("name", ["exported", "torchscript"])
def test_a_bound_call_is_captured_where_that_is_asked_for(name: str, build_model: Builder) -> None:
    folder, artifact = build_model("Mlp", name)
    options = LoadOptions(device="ledger:1", runtime={"cuda_graph": True})
    x = torch.from_numpy(artifact.signature.example({"batch": 4}, seed=0)["x"])
    with torch.inference_mode():
        plain = registry.load(folder, LoadOptions(device="ledger:1")).bind({"x": x})
        plain.run()
        assert ASKED["replayed"] == 0
        bound = registry.load(folder, options).bind({"x": x})
        first: Any = bound.run()[0]
        before = first.clone()
        x += 1
        assert bound.run()[0] is first
        torch.testing.assert_close(first, plain.run()[0])
        assert not torch.equal(torch.as_tensor(first), before)
    assert ASKED["replayed"] == 3  # Runner.bind holds the first one to the signature


def test_what_a_captured_call_reads_lives_as_long_as_the_call(build_model: Builder) -> None:
    """NumPy inputs are copied to a device when they are bound: nobody else holds those copies."""
    folder, artifact = build_model("Mlp", "exported")
    inputs = artifact.signature.example({"batch": 4}, seed=0)
    options = LoadOptions(device="ledger:1", runtime={"cuda_graph": True})
    with torch.inference_mode():
        run = registry.load(folder, options).bind(inputs).run
        gc.collect()
        answer = torch.as_tensor(run()[0])
    torch.testing.assert_close(answer, make("Mlp")(torch.from_numpy(inputs["x"])), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["exported", "torchscript", "onnx"])
def test_a_cuda_graph_is_refused_where_there_are_none(name: str, build_model: Builder) -> None:
    with pytest.raises(UserError, match="cpu has no CUDA graphs; leave the option out, or use --device cuda"):
        registry.load(build_model("Mlp", name)[0], LoadOptions(runtime={"cuda_graph": True}))


def test_an_option_that_a_runtime_does_not_have_is_refused(build_model: Builder) -> None:
    folder, _ = build_model("Mlp", "eager")
    with pytest.raises(UserError, match="eager has no runtime option 'cuda_graph', it has none"):
        registry.load(folder, LoadOptions(runtime={"cuda_graph": True}), lambda: make("Mlp"))


def job_of(candidate: Candidate, folder: Path) -> SampleJob:
    """A short timing of one candidate."""
    return SampleJob(
        candidates=(candidate,),
        source=source("Mlp"),
        spec=BenchSpec(batch_rows=(1,), processes_count=2, rounds_count=5, warmup_s=0.01, callers_s=0.01),
        samples=None,
        seed=0,
        process=0,
        current=str(folder / "current"),
    )


@pytest.mark.parametrize("stale", [False, True])
def test_a_bound_call_with_a_value_of_its_moment_in_it_is_not_timed(
    stale: bool, build_model: Builder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, _ = build_model("Mlp", "exported")
    if stale:
        monkeypatch.setattr(Ledger, "captured", lambda self, call: partial(tuple, call()))
    options = LoadOptions(device="ledger:1", runtime={"cuda_graph": True})
    job = job_of(Candidate(label="exported", folder=str(folder), options=options, whole=False), tmp_path)
    if not stale:
        assert sample(job).series["exported"]
        return
    with pytest.raises(RuntimeError, match="exported: a bound call answers for what y was when it was bound"):
        sample(job)


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
    sampled = sample(job_of(Candidate(label=name, folder=str(artifact), options=options), tmp_path))
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


def test_a_compiler_or_a_toolkit_that_is_missing_is_said_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages, compiled = registry.get("aotinductor"), registry.get("compile")
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    monkeypatch.setattr("export.environment.shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("export.environment.Path.is_file", lambda self: True)
    assert "set CUDA_HOME to its folder" in (packages.unavailable("cuda") or "")
    assert (packages.unavailable("cpu"), compiled.unavailable("cuda")) == (None, None)
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", "/usr/local/cuda")
    assert packages.unavailable("cuda") is None
    monkeypatch.setattr("export.environment.shutil.which", lambda name: name if name == "clang" else None)
    assert "the C++ compiler g++ is missing" in (compiled.unavailable("cpu") or "")
    assert compiled.unavailable("cuda") is None  # Triton takes it too
    monkeypatch.setattr("export.environment.shutil.which", lambda name: name if name == "cc" else None)
    assert "the C compiler gcc is missing" in (compiled.unavailable("cuda") or "")  # and does not look for cc
    monkeypatch.setenv("CC", "icx")
    assert "the C compiler icx is missing" in (compiled.unavailable("cuda") or "")
