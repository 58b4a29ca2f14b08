from __future__ import annotations

import inspect
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from bench.parity.spec import ParitySpec
from export.artifact import open_artifact
from export.build import BuildJob, Source, apart, build
from export.errors import RecordError
from export.log import HEAD_BYTES, TAIL_BYTES
from export.record import write
from export.task import Task
from export.worker import Done, Failed, JobFile, ProcessLimits, Workspace
from tests import jobs
from tests.conftest import ROOT, environ
from tests.model_run import ModelRun
from tests.models import SIGNATURES

EITHER = pytest.mark.parametrize("fresh", [False, True])
"""A child that a server forks, and a Python of its own."""


def test_a_value_comes_back_and_only_the_log_stays(tmp_path: Path) -> None:
    end = Workspace(folder=tmp_path).run(jobs.double, 21, "one")
    assert isinstance(end, Done)
    assert end.result == 42
    assert [path.name for path in tmp_path.iterdir()] == ["one.log"]


def test_infinite_figures_go_to_a_child_and_come_back(tmp_path: Path) -> None:
    end = Workspace(folder=tmp_path).run(jobs.doubled, jobs.Figures(values=(math.inf, -math.inf, 1.5)), "figures")
    assert isinstance(end, Done)
    assert end.result == jobs.Figures(values=(math.inf, -math.inf, 3.0))


def test_an_exception_is_one_line_with_the_traceback_in_the_log_and_a_script_that_repeats_it(tmp_path: Path) -> None:
    outcome = failed(Workspace(folder=tmp_path), jobs.fail, "this")
    assert (outcome.status, outcome.cause) == ("failed", "ValueError: cannot do this")
    assert "Traceback" in outcome.log.read_text()
    again = subprocess.run(["sh", outcome.reproduce], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "ValueError: cannot do this" in again.stderr


def test_the_cause_behind_an_exception_is_told(tmp_path: Path) -> None:
    outcome = failed(Workspace(folder=tmp_path), jobs.fail_because, "")
    assert outcome.cause == "RuntimeError: KeyError: 'the operator'"


def test_a_file_beside_the_recipe_does_not_take_the_place_of_a_package_of_ours(tmp_path: Path) -> None:
    (tmp_path / "bench.py").write_text("raise RuntimeError('this ran')")
    workspace = Workspace(folder=tmp_path / "log", import_path=(str(tmp_path),))
    end = workspace.run(jobs.where_bench_is, "", "where")
    assert isinstance(end, Done), end
    assert end.result == str(ROOT / "bench" / "__init__.py")


@pytest.mark.parametrize(
    ("job", "cause"), [("segfault", "killed by SIGSEGV"), ("leave", "exit code 7: about to leave")]
)
@EITHER
def test_a_crash_is_an_outcome(job: str, cause: str, fresh: bool, tmp_path: Path) -> None:
    outcome = failed(Workspace(folder=tmp_path), getattr(jobs, job), "", fresh=fresh)
    assert (outcome.status, outcome.cause) == ("crashed", cause)


def test_a_full_disk_is_no_failure_of_the_job(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as raised:
        Workspace(folder=tmp_path).run(jobs.fill_the_disk, "", "one")
    assert raised.value.filename == str(tmp_path)


@EITHER
def test_a_hang_is_stopped_with_its_children(fresh: bool, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    workspace = Workspace(folder=tmp_path / "log", limits=ProcessLimits(wall_s=3))
    outcome = failed(workspace, jobs.hang, str(pids), fresh=fresh)
    assert (outcome.status, outcome.cause) == ("timeout", "stopped after its limit of 3 s")
    assert outcome.duration_s < 10
    assert not any(_alive(int(pid)) for pid in pids.read_text().split())


@EITHER
def test_too_much_memory_is_stopped(fresh: bool, tmp_path: Path) -> None:
    workspace = Workspace(folder=tmp_path, limits=ProcessLimits(wall_s=60, memory_bytes=300 << 20))
    outcome = failed(workspace, jobs.eat, "", fresh=fresh)
    assert outcome.status == "out-of-memory"
    assert "over its limit of 300 MiB" in outcome.cause


@EITHER
def test_a_child_dies_with_its_parent(fresh: bool, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import sys\nfrom pathlib import Path\nfrom export.worker import Workspace\nfrom tests.jobs import hang\n"
        f"Workspace(folder=Path(sys.argv[2])).run(hang, sys.argv[1], 'one', fresh={fresh})"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, pids, tmp_path / "log"], env=environ())
    _wait_for(pids.exists)
    both = [int(pid) for pid in pids.read_text().split()]
    assert all(map(_alive, both))
    parent.kill()
    parent.wait()
    _wait_for(lambda: not any(map(_alive, both)), 2.0)


def test_what_a_child_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    end = Workspace(folder=tmp_path).run(jobs.leave_one_behind, "", "one")
    assert isinstance(end, Done)
    assert not _alive(end.result)


def test_without_a_leader_it_stays(tmp_path: Path) -> None:
    """The twin: the same child, started as its script starts it."""
    job = JobFile(task="tests.jobs:leave_one_behind", payload="", result=str(tmp_path / "result.json"))
    write(tmp_path / "job.json", job)
    command = [sys.executable, "-m", "export.child", str(tmp_path / "job.json")]
    child = subprocess.Popen(command, env=environ(), start_new_session=True, stdout=subprocess.DEVNULL)
    assert child.wait() == 0
    os.killpg(child.pid, signal.SIGKILL)  # which does not reach the one with a session of its own
    left = psutil.Process(json.loads((tmp_path / "result.json").read_bytes())["value"])
    assert left.is_running()
    left.kill()


def test_a_child_whose_parent_ended_before_it_looked_ends_too(tmp_path: Path) -> None:
    write(tmp_path / "job.json", JobFile(task="tests.jobs:double", payload=1, result=str(tmp_path / "result.json")))
    gone = subprocess.Popen(["true"])
    gone.wait()
    for parent, code, answered in (
        (gone.pid, -signal.SIGTERM, False),
        (os.getpid(), 0, True),
    ):  # the second is the twin
        command = [sys.executable, "-m", "export.child", str(tmp_path / "job.json"), str(parent)]
        assert subprocess.run(command, env=environ(), check=False).returncode == code
        assert (tmp_path / "result.json").exists() == answered


def test_a_flood_of_output_is_kept_within_bounds_and_a_signal_without_a_name_is_said(tmp_path: Path) -> None:
    outcome = failed(Workspace(folder=tmp_path), jobs.flood, 40)
    assert outcome.cause == f"killed by signal {signal.SIGRTMIN + 3}"
    lines = outcome.log.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("first", "last")
    assert any("bytes are not kept" in line for line in lines)
    assert outcome.log.stat().st_size < HEAD_BYTES + TAIL_BYTES + (1 << 17)


def test_hidden_packages_cannot_be_imported_and_only_where_asked(tmp_path: Path) -> None:
    workspace = Workspace(folder=tmp_path, hidden=("pipeline",))
    hidden = workspace.run(jobs.import_source, "pipeline.recipes.seed", "one", source_free=True)
    assert isinstance(hidden, Failed)
    assert hidden.status == "failed"
    assert "is hidden" in hidden.cause
    shown = workspace.run(jobs.import_source, "pipeline.recipes.seed", "two")
    assert isinstance(shown, Done)
    assert shown.result == "pipeline.recipes.seed"


@pytest.mark.parametrize("limits", [{"wall_s": 0.0}, {"memory_bytes": -1}])
def test_limits_must_make_sense(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ProcessLimits(**limits)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Shape:
    """A job of another shape than the task's."""

    sides: int


def test_a_job_or_result_of_another_type_is_refused_at_either_end(tmp_path: Path) -> None:
    wrong: Any = Shape(sides=3)
    outcome = failed(Workspace(folder=tmp_path), jobs.double, wrong)
    assert "the job of tests.jobs:double is not a int" in outcome.cause
    with pytest.raises(RecordError, match=r"the result of tests\.jobs:lie is not a int"):
        Workspace(folder=tmp_path).run(jobs.lie, 1, "two")


def failed(workspace: Workspace, task: Task[Any, Any], job: Any, *, fresh: bool = False) -> Failed:
    """How a child ended that does not end well."""
    end = workspace.run(task, job, "one", fresh=fresh)
    assert isinstance(end, Failed)
    return end


def _alive(pid: int) -> bool:
    return bool(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)


def _wait_for(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


class EndsScripting(torch.nn.Module):
    """Its process does not survive TorchScript's compiler looking for methods."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x)

    def __dir__(self) -> list[str]:
        if any(frame.function == "infer_methods_to_compile" for frame in inspect.stack()):
            os.kill(os.getpid(), signal.SIGSEGV)
        return [*object.__dir__(self), *self._modules, *self._parameters, *self._buffers]


def ends_scripting(_: str) -> torch.nn.Module:
    return EndsScripting().eval()


def test_a_road_that_ends_its_process_is_left_out_in_the_next(tmp_path: Path) -> None:
    run = ModelRun(
        Source(function=f"{__name__}:ends_scripting", argument=""), SIGNATURES["Pointwise"], tmp_path / "run",
        ParitySpec(rows_count=8),
    )  # fmt: skip
    folder = tmp_path / "torchscript"
    folder.mkdir()
    job = BuildJob(
        backend="torchscript", device="cpu", source=run.source, signature=run.signature, seed=0, key="k",
        checkpoint_sha256="c", program=str(run.program), folder=str(folder),
    )  # fmt: skip
    workspace = Workspace(folder=tmp_path / "log", import_path=(str(ROOT),))
    alone = workspace.run(build, job, "alone")
    assert isinstance(alone, Failed)
    assert alone.status == "crashed"
    end = apart(build, job, workspace, "apart")
    assert isinstance(end, Done), end
    facts = open_artifact(folder).facts
    assert facts["road"] == "trace"
    assert "crashed: killed by SIGSEGV" in facts["not_by_script"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "run", "torchscript"]
