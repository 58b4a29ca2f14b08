"""The check of a bundle for a GPU: which hosts it accepts, how it opens the runtime, what it calls latency."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from export.artifact import Artifact
from export.backend import LoadOptions
from export.record import read
from pipeline.bundle.needs import needs_of
from pipeline.bundle.target import Target, requirements
from pipeline.verifier import needs as verifier_needs
from pipeline.verifier.artifacts import OnnxArtifact, TorchstoneArtifact
from pipeline.verifier.needs import cannot_run
from pipeline.verifier.outcome import Refused
from pipeline.verifier.report import report
from pipeline.verifier.speed import latency
from tests.pipeline.devices.hosts import GOLDEN, gpu_bundle, host, put_gpu

CPU, GPU = LoadOptions(device="cpu"), LoadOptions(device="cuda:1")


# --- needs ------------------------------------------------------------------------------------------------------------


def test_a_gpus_winner_needs_the_gpu_build_of_the_runtime_and_a_gpu() -> None:
    artifact = read(Artifact, GOLDEN / "records" / "artifacts" / "onnx.json")
    plain, needs = needs_of(artifact, GOLDEN, CPU), needs_of(artifact, GOLDEN, GPU)
    assert "gpu" not in plain
    assert needs.pop("gpu") == "nvidia"
    assert needs.pop("onnxruntime-gpu") == plain.pop("onnxruntime")  # newer than the first that can leave TF32
    assert needs == plain


def test_an_old_file_for_a_gpu_needs_a_runtime_that_can_leave_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    from export.backends import onnx

    monkeypatch.setattr(onnx, "oldest_runtime", lambda opset, ir_version: "1.9")
    artifact = read(Artifact, GOLDEN / "records" / "artifacts" / "onnx.json")
    assert needs_of(artifact, GOLDEN, CPU)["onnxruntime"] == ">=1.9"
    assert needs_of(artifact, GOLDEN, GPU)["onnxruntime-gpu"] == ">=1.18"


@pytest.mark.parametrize("driver", ["tool", "driver alone", "none"])
def test_a_gpu_is_seen_by_its_tool_or_by_its_driver(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", put_gpu(tmp_path / "bin") if driver == "tool" else str(tmp_path))
    monkeypatch.setattr(verifier_needs, "_NVIDIA_GPUS", tmp_path / "gpus")
    if driver == "driver alone":
        (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    reason = cannot_run({"gpu": "nvidia"})
    assert reason == ("it needs a GPU of nvidia, and this machine shows none" if driver == "none" else None)
    assert cannot_run({"gpu": "another"}) is not None


# --- hosts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runtime", "gpu", "reason"),
    [
        ("onnxruntime_gpu-1.31.1", True, None),
        ("onnxruntime_gpu-1.31.1", False, "it needs a GPU of nvidia, and this machine shows none"),
        ("onnxruntime-1.31.1", True, "it needs onnxruntime-gpu >=1.18, which is not installed"),
        ("onnxruntime_gpu-1.17.3", True, "it needs onnxruntime-gpu >=1.18, this is 1.17.3"),
    ],
    ids=["fits", "no GPU", "CPU build", "too old"],
)
def test_a_host_that_fits_accepts_the_bundle_and_another_refuses_it(
    runtime: str, gpu: bool, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gpu:
        monkeypatch.setenv("PATH", put_gpu(tmp_path / "bin"))
    monkeypatch.setenv("RECORDED", str(tmp_path / "recorded"))
    bundle = gpu_bundle(tmp_path / "bundle", wanted=">=1.18")
    refused = Target(python=host(tmp_path / "host", runtime, recording=True), version="").accepts(bundle)
    if reason is None:
        assert refused is None
        (opened, *_) = recorded(tmp_path / "recorded")
        settings = {
            "device_id": "0", "use_tf32": "0", "enable_cuda_graph": "0", "cudnn_conv_algo_search": "EXHAUSTIVE",
        }  # fmt: skip
        assert opened["providers"] == [["CUDAExecutionProvider", settings]]
        assert opened["cpu_refused"] is False  # the runtime computes shapes there on purpose
        assert opened["more"] == {"enable_fallback": 0}
    else:
        assert reason in str(refused)


def recorded(path: Path) -> list[dict[str, Any]]:
    """What a recording host wrote down."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_host_whose_libraries_do_not_load_is_refused_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real runtime, which would answer on the CPU."""
    _skip_with_a_gpu()
    monkeypatch.setenv("PATH", put_gpu(tmp_path / "bin"))
    target = Target(python=host(tmp_path / "host", "onnxruntime_gpu-1.31.1"), version="")
    assert "does not open CUDAExecutionProvider: lib" in str(target.accepts(gpu_bundle(tmp_path / "bundle")))


def test_the_session_of_a_gpu_is_not_let_to_the_cpu() -> None:
    _skip_with_a_gpu()
    bundle = json.loads((GOLDEN / "bundle.json").read_bytes())
    shipped = bundle["shipped"][0] | {"options": {"device": "cuda", "threads_count": 1, "runtime": {}}}
    with pytest.raises(Refused, match="does not open CUDAExecutionProvider"):
        OnnxArtifact(GOLDEN, bundle, shipped).load()
    OnnxArtifact(GOLDEN, bundle, bundle["shipped"][0]).load()


def _skip_with_a_gpu() -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(GOLDEN / "model.onnx"), providers=["CUDAExecutionProvider"])
    if "CUDAExecutionProvider" in session.get_providers():
        pytest.skip("a GPU is here")


def test_a_captured_call_has_a_graph_of_its_own_and_others_are_not_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph replays what it captured on the memory of its first call, so none may be shared."""
    monkeypatch.setenv("PATH", put_gpu(tmp_path / "bin"))
    monkeypatch.setenv("RECORDED", str(tmp_path / "recorded"))
    bundle = gpu_bundle(tmp_path / "bundle", graph=True)
    python = host(tmp_path / "host", "onnxruntime_gpu-1.31.1", recording=True)
    command = [str(python), "-I", str(bundle / "verify.pyz"), str(bundle), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    notes = recorded(tmp_path / "recorded")
    assert notes[0]["providers"][0][1]["enable_cuda_graph"] == "1"
    graphs = [note["bound_graph"] for note in notes if "bound_graph" in note]
    sizes_count = len(json.loads((bundle / "bundle.json").read_bytes())["timed_rows"])
    assert set(graphs) == {"-1", *(str(number + 1) for number in range(sizes_count))}
    run = json.loads(done.stdout)["artifacts"]["onnx"]
    assert [figure["workload_s"] for figure in run["latency"]] == [None] * sizes_count


@pytest.mark.parametrize(
    ("version", "options", "wanted"),
    [
        ("1.17.3", CPU, ["onnxruntime==1.17.3", "numpy<2"]),
        ("1.24.1", CPU, ["onnxruntime==1.24.1", "numpy"]),
        ("1.20.1", GPU, ["onnxruntime-gpu==1.20.1", "numpy"]),
        ("1.24.1", GPU, ["onnxruntime-gpu[cuda,cudnn]==1.24.1", "numpy"]),
    ],
    ids=str,
)
def test_a_target_is_made_of_the_build_that_the_device_needs(
    version: str, options: LoadOptions, wanted: list[str]
) -> None:
    assert requirements(version, options) == wanted


def test_a_target_for_a_gpu_does_not_take_the_cpu_for_it(tmp_path: Path) -> None:
    _skip_with_a_gpu()
    python = host(tmp_path / "host", "onnxruntime_gpu-1.31.1")
    assert Target(python=python, version="").loads(GOLDEN / "model.onnx") is None
    gpu = Target(python=python, version="", provider="CUDAExecutionProvider")
    assert gpu.loads(GOLDEN / "model.onnx") == "this onnxruntime does not open CUDAExecutionProvider here"


# --- latency ----------------------------------------------------------------------------------------------------------

DONE_AFTER_S = 0.004


class LaggingRunner:
    """Calls return at once and are done later, which only the device's own synchroniser waits for."""

    def __init__(self) -> None:
        self._done_at_s = 0.0
        self.device = SimpleNamespace(synchroniser=lambda: self._wait)

    def bind(self, inputs: Mapping[str, Any]) -> Any:
        return SimpleNamespace(run=self._queue)

    def _queue(self) -> None:
        self._done_at_s = max(self._done_at_s, time.monotonic()) + DONE_AFTER_S

    def _wait(self) -> None:
        while time.monotonic() < self._done_at_s:
            pass


def _lagging(device: str) -> tuple[dict[str, Any], dict[str, Any], TorchstoneArtifact]:
    """A bundle, an artifact of torch in it that was judged there, and that artifact on a lagging device."""
    bundle = json.loads((GOLDEN / "bundle.json").read_bytes())
    shipped = bundle["shipped"][0] | {"options": {"device": device, "threads_count": 1, "runtime": {}}}
    artifact = TorchstoneArtifact(GOLDEN, bundle, shipped)
    artifact.runner = LaggingRunner()
    return bundle, shipped, artifact


@pytest.fixture
def _inference_mode_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check enters it for the rest of its process, which this one is not."""
    monkeypatch.setattr(torch, "inference_mode", nullcontext)


@pytest.mark.usefixtures("_inference_mode_left")
def test_latency_on_a_gpu_ends_when_the_gpu_is_done() -> None:
    bundle, shipped, artifact = _lagging("cuda")
    figures = latency(np, GOLDEN, bundle, shipped, artifact)
    assert all(figure["low_s"] >= DONE_AFTER_S for figure in figures)


@pytest.mark.usefixtures("_inference_mode_left")
def test_without_the_wait_the_launch_would_be_taken_for_it() -> None:
    bundle, shipped, artifact = _lagging("cpu")
    assert all(figure["median_s"] < DONE_AFTER_S / 2 for figure in latency(np, GOLDEN, bundle, shipped, artifact))


@pytest.mark.usefixtures("_inference_mode_left")
def test_a_workload_of_the_cpu_is_no_unit_of_a_time_on_a_gpu() -> None:
    for device, timed in (("cpu", True), ("cuda", False)):
        bundle, shipped, artifact = _lagging(device)
        figures = latency(np, GOLDEN, bundle, shipped, artifact)
        assert [figure["workload_s"] is not None for figure in figures] == [timed] * len(figures)
        here, there = figures[0], {**figures[0], "workload_s": 1e-4}
        assert ("units of the reference workload" in _line(here, there)) is timed


def _line(here: Mapping[str, Any], claimed: Mapping[str, Any], **more: Any) -> str:
    """The report of a run with this one figure, beside the claim."""
    golden = {"worst_share": 0.1, "worst_call": "00", "sqnr_db": None, "calls_count": 1, "values_count": 1}
    run = {"golden": golden, "lineage": "", "cold_s": 1.0, "peak_bytes": None, "latency": [here], **more}
    claims = {"onnx": {"cold_s": 1.0, "peak_bytes": None, "latency": [claimed]}}
    return "\n".join(report({"artifacts": {"onnx": run}, "claims": claims}))


def test_nodes_that_are_not_on_the_gpu_are_said() -> None:
    figure = {"batch_rows": 1, "median_s": 1e-3, "workload_s": None}
    assert "onnx: 3 of its nodes do not run on the GPU" in _line(figure, figure, elsewhere_count=3)
    for count in (0, None):
        assert "on the GPU" not in _line(figure, figure, elsewhere_count=count)
