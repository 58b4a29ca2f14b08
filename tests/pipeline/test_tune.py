from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.run_folder import RunFolder
from bench.stats.effects import Effect, Ratio
from bench.timing.processes.session import Session
from bench.timing.spec import BenchSpec
from bench.tune import Tuning, gain, search
from export import registry
from export.artifact import open_artifact
from export.backend import LoadOptions
from export.build import Source
from export.environment import cores_count, machine
from export.record import Observed, digest, read, write
from export.worker import Workspace
from pipeline.console import Console
from pipeline.find import find
from pipeline.run import open_run
from pipeline.stages.children import load_options
from tests.conftest import ROOT, environ

OBSERVED = Observed(at="2026-01-01T00:00:00+00:00", duration_s=1.0, host="h")


def tune(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.tune", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environ())


def test_every_setting_that_a_runtime_has_is_tried_and_no_other() -> None:
    before = LoadOptions(threads_count=2)
    onnx, compiled, script = (registry.get(name) for name in ("onnx", "compile", "torchscript"))
    assert compiled.settings(before, 4) == []  # its kernels have their threads built in
    assert [one.threads_count for one in script.settings(before, 4)] == [1, 4]
    tried = [
        (one.threads_count, runtime.optimization, runtime.spinning)
        for one in onnx.settings(before, 4)
        for runtime in [onnx.runtime_options(one)]
    ]
    assert tried == [
        (1, "all", False), (1, "extended", False),
        (2, "all", True), (2, "extended", False), (2, "extended", True),
        (4, "all", False), (4, "all", True), (4, "extended", False), (4, "extended", True),
    ]  # fmt: skip
    on_gpu = onnx.settings(replace(before, device="cuda"), 4)
    for backend in (compiled, script):
        (captured,) = backend.settings(replace(before, device="cuda"), 4)
        assert captured == replace(before, device="cuda", runtime={"cuda_graph": True})
    assert {options.threads_count for options in on_gpu} == {2}  # the host's threads compute nothing there
    tried_there = [onnx.runtime_options(options) for options in on_gpu]
    assert [(runtime.optimization, runtime.cuda_graph, runtime.cudnn_search) for runtime in tried_there[:6]] == [
        ("all", False, "heuristic"), ("all", False, "default"),
        ("all", True, "exhaustive"), ("all", True, "heuristic"), ("all", True, "default"),
        ("extended", False, "exhaustive"),
    ]  # fmt: skip
    assert (len(tried_there), {runtime.spinning for runtime in tried_there}) == (11, {False})


def test_the_command_says_what_each_setting_gained_and_writes_it_down(built: Path) -> None:
    done = tune(built, "--artifacts", "onnx", "--processes", "2", "--batch-rows", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    tuning = read(Tuning, RunFolder(built).tuning("onnx"))
    assert all(setting in done.stdout for setting in tuning.gains)
    artifact = open_artifact(built / "artifacts" / "onnx")
    assert (tuning.artifact_sha256, tuning.machine) == (digest(artifact), machine())
    assert set(tuning.gains) <= {one.summary for one in registry.get("onnx").settings(tuning.before, cores_count())}
    assert len(tuning.gains) >= 1
    assert tuning.options == tuning.before or tuning.gains[tuning.options.summary].comparison == "faster"
    RunFolder(built).tuning("onnx").unlink()


def session(built: Path, present: LoadOptions) -> Session:
    """What a search races the built run's ONNX artifact in, with these settings as its present ones."""
    return Session(
        folders={"onnx": built / "artifacts" / "onnx"},
        options={"onnx": present},
        source=Source(function="", argument=""),
        program=None,
        spec=BenchSpec(batch_rows=(1,), processes_count=2, rounds_count=5),
        samples=None,
        seed=0,
        key="k",
    )


def test_a_setting_that_fails_is_left_out_and_the_others_race_on(built: Path, tmp_path: Path) -> None:
    present = LoadOptions(threads_count=1)
    impossible = replace(present, runtime={"cuda_graph": True})  # there is no GPU
    other = replace(present, runtime={"optimization": "extended"})
    said: list[str] = []
    choices = {"onnx": [impossible, other]}
    searched = search(session(built, present), choices, Workspace(folder=tmp_path), said.append)["onnx"]
    assert set(searched.effects) == {other}
    assert "cpu has no CUDA graphs" in searched.failed[impossible]
    assert said[0].startswith("2 settings")
    assert said[-1].startswith("1 settings")


def test_an_artifact_that_fails_as_it_is_ends_the_search(built: Path, tmp_path: Path) -> None:
    """The twin: nothing can be compared with it."""
    broken = LoadOptions(threads_count=1, runtime={"cuda_graph": True})
    choices = {"onnx": [LoadOptions(threads_count=1)]}
    with pytest.raises(RuntimeError, match=r"(?s)failed: cuda_graph: cpu has no CUDA graphs.*The whole story"):
        search(session(built, broken), choices, Workspace(folder=tmp_path), lambda _: None)


@pytest.mark.parametrize("seed", [0, 2])
def test_what_is_no_settings_fault_ends_the_search(built: Path, tmp_path: Path, seed: int) -> None:
    """Whatever candidate was loaded last."""
    present = LoadOptions(threads_count=1)
    too_many = replace(session(built, present), seed=seed, spec=BenchSpec(batch_rows=(10**9,), processes_count=2))
    other = replace(present, runtime={"optimization": "extended"})
    with pytest.raises(RuntimeError, match=r"measuring failed: bench.batch_rows must have a size in \[1, 65536\]"):
        search(too_many, {"onnx": [other]}, Workspace(folder=tmp_path), lambda _: None)


def test_an_artifact_that_is_not_there_is_named(built: Path) -> None:
    done = tune(built, "--artifacts", "openvino")
    assert done.returncode == 2
    assert "has no artifact 'openvino' that passed parity" in done.stderr


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_pipeline_uses_what_was_tuned_on_this_machine_alone(built: Path, tmp_path: Path, elsewhere: bool) -> None:
    artifact = open_artifact(built / "artifacts" / "onnx")
    tuned = LoadOptions(threads_count=1, runtime={"optimization": "extended"})
    with open_run(find("seed"), "cpu", tmp_path, Console(quiet=True)) as run:
        assert load_options(run, artifact) == LoadOptions(threads_count=cores_count())
        here = replace(machine(), cpu="another") if elsewhere else machine()
        tuning = Tuning(
            key="k",
            artifact="onnx",
            artifact_sha256=digest(artifact),
            machine=here,
            before=LoadOptions(threads_count=cores_count()),
            options=tuned,
            gains={},
            refused={},
            observed=OBSERVED,
        )
        write(run.files.tuning("onnx"), tuning)
        expected = LoadOptions(threads_count=cores_count()) if elsewhere else tuned
        assert load_options(run, artifact) == expected
        assert load_options(run, replace(artifact, checkpoint_sha256="other")) == LoadOptions(
            threads_count=cores_count()
        )


def test_a_gain_is_told_as_a_person_reads_it() -> None:
    ratio = Ratio(value=0.5, low=0.4, high=0.8)
    faster = Effect(ratio=ratio, comparison="faster", noise_ratio=0.0, detectable_ratio=0.0, needs_processes_count=None)
    assert gain(faster) == "2.00x faster [1.25, 2.50]"
    assert gain(replace(faster, comparison="same")) == "same: 0.50 [0.40, 0.80] of the time"
