"""The same contract on CUDA. These need a device; `python -m tests.gpu` runs them with the main job."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.timing.cold import DeviceMemory
from bench.timing.contender import Candidate
from bench.timing.roofline import RooflineJob, roofline
from bench.timing.sample import SampleJob, sample
from bench.timing.spec import BenchSpec
from export import registry
from export.artifact import PROGRAM_FILE, Artifact
from export.backend import LoadOptions, Runner
from export.backends.torchscript import opened_graph
from export.device import device
from export.gpus.nvml import Board
from export.registry import STANDARD
from pipeline.training.train import train
from pipeline.training.watch.progress import Progress
from tests.conftest import Builder
from tests.export.test_device import Placed
from tests.model_run import ModelRun
from tests.models import SIGNATURES, make, source
from tests.pipeline.training import small

pytestmark = pytest.mark.gpu
OPTIONS = LoadOptions(device="cuda")
CAPTURED = [name for name in STANDARD if name != "eager"]
PORTABLE = [name for name in (*STANDARD, "onnx-legacy") if not registry.get(name).device_bound]


@pytest.mark.parametrize("name", PORTABLE)
def test_a_portable_artifact_runs_on_cuda_and_nowhere_else(name: str, build_model: Builder) -> None:
    folder, artifact = build_model("ConvNorm", name)
    runner = registry.load(folder, OPTIONS, lambda: make("ConvNorm"))
    inputs: Any = artifact.signature.example({"batch": 7}, seed=0)
    expected = make("ConvNorm")(torch.from_numpy(inputs["image"])).detach().numpy()
    np.testing.assert_allclose(runner(inputs)["output"], expected, atol=1e-4)
    on_device = runner({"image": torch.from_numpy(inputs["image"]).cuda()})["output"]
    assert isinstance(on_device, torch.Tensor)
    assert on_device.is_cuda
    witness = runner.witness()
    assert (witness.device, witness.fallback) == ("cuda", None)


@pytest.mark.parametrize("name", PORTABLE)
def test_parity_holds_on_cuda_against_eager_on_cuda(name: str, tmp_path: Path) -> None:
    run = ModelRun(source("ConvNorm"), SIGNATURES["ConvNorm"], tmp_path / "run", device="cuda")
    report = run.judge(run.build(name, tmp_path / name), OPTIONS)
    assert (report.status, report.reasons) == ("pass", ())


@pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk")
@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("Halved", ("torchscript", "onnx")),  # torch 2.11 cannot export its sizes, on any device
        ("Masked", ("torchscript", "exported", "onnx")),
        ("Nested", ("torchscript", "exported", "onnx")),
        ("Recurrent", ("torchscript", "exported", "onnx")),
    ],
)
def test_sizes_flags_integers_and_time_hold_parity_on_cuda(model: str, names: tuple[str, ...], tmp_path: Path) -> None:
    """Sizes that are computed on the host, boolean and integer inputs, float16 outputs, a loop over time."""
    run = ModelRun(source(model), SIGNATURES[model], tmp_path / "run", device="cuda")
    reports = {name: run.judge(run.build(name, tmp_path / name), OPTIONS) for name in names}
    assert {name: (report.status, report.reasons) for name, report in reports.items()} == dict.fromkeys(
        reports, ("pass", ())
    )


def test_sizes_are_computed_on_the_host_and_the_witness_says_so(build_model: Builder) -> None:
    witness = registry.load(build_model("Halved", "onnx")[0], OPTIONS).witness()
    assert witness.fallback is None
    assert "nodes (" in witness.evidence["sizes_on_cpu"]


def test_a_trace_makes_its_tensors_where_it_runs(tmp_path: Path) -> None:
    traced: Any = torch.jit.freeze(torch.jit.trace(Placed().eval(), torch.randn(2, 3)))
    traced.save(str(tmp_path / "model.pt"))
    x = torch.randn(5, 3)
    answer = opened_graph(tmp_path / "model.pt", device("cuda"))(x.cuda())
    torch.testing.assert_close(answer.cpu(), traced(x))


@pytest.mark.parametrize("name", CAPTURED)
def test_calls_are_in_order_with_torch_without_waiting_on_the_host(name: str, build_model: Builder) -> None:
    """Inputs that are still being computed when the call is made, outputs that are used at once; as a graph, too."""
    folder, artifact = build_model("Mlp", name, device="cuda")
    for options in (OPTIONS, LoadOptions(device="cuda", runtime={"cuda_graph": True})):
        _calls_are_in_order(registry.load(folder, options), artifact)


def _calls_are_in_order(runner: Runner, artifact: Artifact) -> None:
    start = torch.from_numpy(artifact.signature.example({"batch": 64}, seed=0)["x"]).cuda()
    buffer = start.clone()
    bound = runner.bind({"x": buffer})
    busy = torch.randn(4096, 4096, device="cuda")
    for step in range(5):
        for _ in range(20):
            busy = busy @ busy / 64  # keeps the stream busy for milliseconds
        buffer.copy_(start + step + 0 * busy[0, 0].nan_to_num(0, 0, 0))
        doubled = torch.as_tensor(bound.run()[0]) * 2
        expected = torch.as_tensor(runner({"x": start + step})["y"]) * 2
        torch.testing.assert_close(doubled, expected)


def test_a_bound_call_reads_its_buffers_on_the_device(build_model: Builder) -> None:
    folder, artifact = build_model("Mlp", "onnx")
    runner = registry.load(folder, OPTIONS)
    buffer = torch.from_numpy(artifact.signature.example({"batch": 9}, seed=0)["x"]).cuda()
    bound = runner.bind({"x": buffer})
    before = torch.as_tensor(bound.run()[0]).clone()
    buffer += 1
    torch.cuda.synchronize()
    assert not torch.equal(torch.as_tensor(bound.run()[0]), before)


def test_candidates_are_timed_on_the_device_and_waited_for(build_model: Builder, tmp_path: Path) -> None:
    folders = [build_model("Mlp", name)[0] for name in ("eager", "torchscript", "onnx")]
    job = SampleJob(
        candidates=tuple(Candidate(label=one.name, folder=str(one), options=OPTIONS) for one in folders),
        source=source("Mlp"),
        spec=BenchSpec(batch_rows=(1, 1024), processes_count=2, rounds_count=6, callers_s=0.02),
        samples=None,
        seed=0,
        process=0,
        current=str(tmp_path / "current"),
    )
    sampled = sample(job)
    assert {label: [one.batch_rows for one in many] for label, many in sampled.series.items()} == {
        folder.name: [1, 1024] for folder in folders
    }
    # A call that nobody waits for takes a microsecond; one that is waited for takes at least a launch.
    series = [samples for many in sampled.series.values() for samples in many]
    assert all(min(samples.samples_s) > 3e-6 for samples in series)
    # That calls which are queued are the faster ones shows in the best of them: a neighbour lengthens the others.
    assert all(0 < min(samples.queued_s) < statistics.median(samples.samples_s) for samples in series)


def test_the_roofline_of_the_device_is_that_of_a_gpu(build_model: Builder) -> None:
    folder, artifact = build_model("Mlp", "onnx")
    program = folder.parent / "program" / PROGRAM_FILE
    spec = BenchSpec(batch_rows=(1,))
    job = RooflineJob(program=str(program), signature=artifact.signature, spec=spec, device="cuda", threads_counts=(1,))
    (ceilings,) = roofline(job).ceilings
    assert ceilings.flops_per_s > 5e12
    assert max(ceilings.bytes_per_s.values()) > 3e11


def test_training_on_cuda_gives_the_same_bits_twice(tmp_path: Path) -> None:
    from pipeline.recipes import seed

    quiet = Progress(say=lambda text: None, advance=lambda done, total, note: None)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        train(seed.recipe(), device("cuda"), tmp_path / name, "k", quiet)
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("settings", [{"optimizer": "sgd", "lr": 0.1}, {"optimizer": "adamw", "schedule": "cosine"}])
def test_a_training_by_cuda_graphs_is_the_plain_one_up_to_rounding(settings: dict[str, Any], tmp_path: Path) -> None:
    quiet = Progress(say=lambda text: None, advance=lambda done, total, note: None)
    losses = []
    for name, fast in (("plain", False), ("fast", True), ("again", True)):
        (tmp_path / name).mkdir()
        train(small.recipe(fast=fast, **settings), device("cuda"), tmp_path / name, "k", quiet)
        losses.append([line["train_loss"] for line in small.metrics(tmp_path / name)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[1] == losses[2]
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("fast", "again")]
    assert weights[0] == weights[1]


def test_nvml_means_the_board_that_torch_computes_on() -> None:
    pytest.importorskip("pynvml")
    board = device("cuda").board()
    assert isinstance(board, Board)
    assert str(torch.cuda.get_device_properties(0).uuid) in board.listed.uuid
    torch.zeros(1, device="cuda")
    assert DeviceMemory(device("cuda")).taken_bytes() is not None


def test_a_caller_waits_until_its_own_stream_is_empty() -> None:
    busy = torch.randn(4096, 4096, device="cuda")
    for _ in range(50):
        busy = busy @ busy / 64
    device("cuda").waiter()()
    assert torch.cuda.current_stream().query()


def test_memory_that_nothing_holds_goes_back_to_the_driver() -> None:
    held = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    del held
    reserved_bytes = torch.cuda.memory_reserved()
    device("cuda").release()
    assert torch.cuda.memory_reserved() <= reserved_bytes - (1 << 28)
