"""The speed gate: its arithmetic, and a planted slow-down in a real artifact, measured in real processes."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from bench import baseline
from bench.baseline import Baseline, committed, new_baseline
from bench.gate import Regression, gathered, ratio_to, sample_ratios
from bench.parity.report import ParityReport
from bench.run_folder import RunFolder
from export.artifact import RECORD, Artifact
from export.environment import environment
from export.files import digest_files
from export.record import digest, read, write
from tests.conftest import ROOT

AGAIN = {"1": [0.005, -0.004, 0.002, -0.003, 0.001]}
WHAT = "onnx at batch 1"


def logs(ratio: float, sigma: float = 0.01, seed: int = 0, count: int = 5) -> list[float]:
    generator = random.Random(seed)
    return [math.log(ratio) + generator.gauss(0, sigma) for _ in range(count)]


def lost(now: Sequence[float], then: Sequence[float]) -> Regression:
    (one,) = ratio_to({WHAT: now, "new at batch 1": now}, {WHAT: then}, AGAIN)
    return one


def test_a_fifth_slower_is_a_regression_and_a_twentieth_is_not() -> None:
    then = logs(0.2, seed=1)
    assert lost(logs(0.24), then).regressed
    assert not lost(logs(0.21), then).regressed
    assert not lost(logs(0.16), then).regressed
    assert "onnx at batch 1: 1.19 [1.18, 1.21] of the baseline" in lost(logs(0.24), then).message


def test_noise_that_could_hide_a_loss_is_not_judged() -> None:
    noisy = lost(logs(0.2, sigma=0.4), logs(0.2, sigma=0.4, seed=1))
    assert not noisy.regressed
    assert noisy.too_noisy
    assert not lost(logs(0.2), logs(0.2, seed=1)).too_noisy


def test_four_hundred_comparisons_without_a_difference_raise_no_alarm() -> None:
    alarms = sum(lost(logs(0.2, 0.03, seed), logs(0.2, 0.03, seed + 1000)).regressed for seed in range(400))
    assert alarms == 0


GPUS = ("GPU 0: NVIDIA H100 80GB HBM3",)
OTHER: dict[str, tuple[str, Any]] = {
    "cpu": ("processor", "another"),
    "cores_count": ("cores", 999),
    "device": ("device", "cuda"),
    "gpus": ("GPUs", ("GPU 0: NVIDIA A100-SXM4-40GB",)),
    "versions": ("versions", {}),
}


def judged_on(device: str, folder: Path) -> Path:
    """The folder of a run whose baseline was judged there."""
    run = RunFolder(folder / device.replace(":", "-"))
    report = read(ParityReport, ROOT / "tests" / "golden" / "bundle-2" / "records" / "parity" / "onnx.json")
    run.parity_report("eager").parent.mkdir(parents=True)
    write(run.parity_report("eager"), replace(report, options=replace(report.options, device=device)))
    return run.path


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[str, ...]], None]:
    """What nvidia-smi shows on this machine."""

    def shown(names: tuple[str, ...]) -> None:
        here = environment()
        monkeypatch.setattr(baseline, "environment", lambda: replace(here, machine=replace(here.machine, gpus=names)))

    return shown


@pytest.mark.parametrize("field", OTHER)
@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_baseline_of_another_machine_or_device_is_not_used_and_the_field_is_named(
    device: str, field: str, gpus: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(GPUS)
    run = judged_on(device, tmp_path)
    monkeypatch.setattr(baseline, "BASELINE_FILE", tmp_path / "baseline.json")
    assert committed(run) == (None, "there is no baseline.json")
    stored = new_baseline(run, {WHAT: (0.0, 0.1)})
    write(baseline.BASELINE_FILE, stored)
    assert committed(run)[0] == stored
    name, value = OTHER[field]
    write(baseline.BASELINE_FILE, replace(stored, **{field: value}))
    usable, why_not = committed(run)
    assert usable is None
    assert f"has other {name}: " in why_not


def test_a_gpu_that_nobody_names_is_compared_with_none(
    gpus: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two GPUs without a name would look the same; a run on the CPU does not care which GPUs are there."""
    monkeypatch.setattr(baseline, "BASELINE_FILE", tmp_path / "baseline.json")
    gpus(())
    write(baseline.BASELINE_FILE, new_baseline(judged_on("cuda", tmp_path), {}))
    usable, why_not = committed(tmp_path / "cuda")
    assert (usable, "which GPU cuda is cannot be known" in why_not) == (None, True)
    write(baseline.BASELINE_FILE, new_baseline(judged_on("cpu", tmp_path), {}))
    gpus(GPUS)
    assert committed(tmp_path / "cpu")[0] is not None


def test_the_committed_baseline_is_readable() -> None:
    assert read(Baseline, baseline.BASELINE_FILE).device == "cpu"


def test_a_slow_down_planted_in_an_artifact_is_found_and_its_twin_is_not(built: Path, tmp_path: Path) -> None:
    """The file gets nodes that change no value and cost time; the same run without them is the baseline."""
    fast, slow = only_onnx(built, tmp_path / "fast" / "seed" / "a"), only_onnx(built, tmp_path / "slow" / "seed" / "a")
    plant_slow_down(slow)
    before, again = gathered([sample_ratios(fast, seed) for seed in range(3)])
    after, _ = gathered([sample_ratios(slow, seed) for seed in range(3)])
    same, _ = gathered([sample_ratios(fast, seed) for seed in range(3, 6)])
    assert any(one.regressed for one in ratio_to(after, before, again))
    assert not any(one.regressed for one in ratio_to(same, before, again))


def only_onnx(built: Path, folder: Path) -> Path:
    """A copy of a run with eager and ONNX alone, so that a process takes two seconds."""
    shutil.copytree(built, folder)
    for artifact in (folder / "artifacts").iterdir():
        if artifact.name not in {"eager", "onnx"}:
            shutil.rmtree(artifact)
    return folder


def plant_slow_down(run: Path, nodes_count: int = 40) -> None:
    """A chain of clips that no value reaches, before the output; its record and its proof vouch for the file."""
    folder = run / "artifacts" / "onnx"
    model = onnx.load(str(folder / "model.onnx"))
    graph = model.graph
    output = graph.output[0].name
    last = next(node for node in graph.node if output in node.output)
    last.output[list(last.output).index(output)] = "planted_0"
    graph.initializer.extend([helper.make_tensor("planted_bound", onnx.TensorProto.FLOAT, [], [1e30])])
    for index in range(nodes_count):
        name = output if index == nodes_count - 1 else f"planted_{index + 1}"
        kind = "Min" if index % 2 else "Max"
        low = "planted_bound" if index % 2 else "planted_low"
        graph.node.append(helper.make_node(kind, [f"planted_{index}", low], [name], name=f"planted_{index}_node"))
    graph.initializer.extend([helper.make_tensor("planted_low", onnx.TensorProto.FLOAT, [], [-1e30])])
    onnx.save(model, str(folder / "model.onnx"))
    artifact = replace(read(Artifact, folder / RECORD), files=digest_files(folder, [folder / "model.onnx"]))
    write(folder / RECORD, artifact)
    report = run / "parity" / "onnx.json"
    write(report, replace(read(ParityReport, report), artifact_sha256=digest(artifact)))
