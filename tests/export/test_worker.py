from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from export.worker import ProcessLimits, Workspace, run_child
from tests.conftest import environ


def test_a_value_comes_back_and_only_the_log_stays(tmp_path: Path) -> None:
    outcome = run_child("one", "tests.jobs:double", 21, Workspace(folder=tmp_path))
    assert (outcome.status, outcome.value, outcome.cause) == ("done", 42, None)
    assert [path.name for path in tmp_path.iterdir()] == ["one.log"]


def test_an_exception_is_one_line_with_the_traceback_in_the_log_and_a_script_that_repeats_it(tmp_path: Path) -> None:
    outcome = run_child("one", "tests.jobs:fail", "this", Workspace(folder=tmp_path))
    assert (outcome.status, outcome.cause) == ("failed", "ValueError: cannot do this")
    assert "Traceback" in outcome.log.read_text()
    again = subprocess.run(["sh", outcome.reproduce], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "ValueError: cannot do this" in again.stderr


def test_the_cause_behind_an_exception_is_told(tmp_path: Path) -> None:
    outcome = run_child("one", "tests.jobs:fail_because", None, Workspace(folder=tmp_path))
    assert outcome.cause == "RuntimeError: KeyError: 'the operator'"


@pytest.mark.parametrize(
    ("job", "cause"), [("segfault", "killed by SIGSEGV"), ("leave", "exit code 7: about to leave")]
)
def test_a_crash_is_an_outcome(job: str, cause: str, tmp_path: Path) -> None:
    outcome = run_child("one", f"tests.jobs:{job}", None, Workspace(folder=tmp_path))
    assert (outcome.status, outcome.cause) == ("crashed", cause)


def test_a_full_disk_is_no_failure_of_the_job(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as raised:
        run_child("one", "tests.jobs:fill_the_disk", None, Workspace(folder=tmp_path))
    assert raised.value.filename == str(tmp_path)


def test_a_hang_is_stopped_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    workspace = Workspace(folder=tmp_path / "desk", limits=ProcessLimits(wall_s=3))
    outcome = run_child("one", "tests.jobs:hang", str(pids), workspace)
    assert (outcome.status, outcome.cause) == ("timeout", "stopped after its limit of 3 s")
    assert outcome.duration_s < 10
    assert not any(_alive(int(pid)) for pid in pids.read_text().split())


def test_too_much_memory_is_stopped(tmp_path: Path) -> None:
    workspace = Workspace(folder=tmp_path, limits=ProcessLimits(wall_s=60, memory_bytes=300 << 20))
    outcome = run_child("one", "tests.jobs:eat", None, workspace)
    assert outcome.status == "out-of-memory"
    assert outcome.cause is not None
    assert "over its limit of 300 MiB" in outcome.cause


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import sys\nfrom pathlib import Path\nfrom export.worker import Desk, run_child\n"
        "run_child('one', 'tests.jobs:hang', sys.argv[1], Desk(folder=Path(sys.argv[2])))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, pids, tmp_path / "desk"], env=environ())
    _wait_for(pids.exists)
    child = int(pids.read_text().split()[0])
    assert _alive(child)
    parent.kill()
    parent.wait()
    _wait_for(lambda: not _alive(child))
    os.kill(int(pids.read_text().split()[1]), signal.SIGKILL)  # the grandchild is the job's own to end


def test_hidden_packages_cannot_be_imported_and_only_where_asked(tmp_path: Path) -> None:
    workspace = Workspace(folder=tmp_path, hidden=("pipeline",))
    hidden = run_child("one", "tests.jobs:import_source", "pipeline.recipes.seed", workspace, source_free=True)
    assert hidden.status == "failed"
    assert hidden.cause is not None
    assert "is hidden" in hidden.cause
    shown = run_child("two", "tests.jobs:import_source", "pipeline.recipes.seed", workspace)
    assert shown.value == "pipeline.recipes.seed"


@pytest.mark.parametrize("limits", [{"wall_s": 0.0}, {"memory_bytes": -1}])
def test_limits_must_make_sense(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ProcessLimits(**limits)  # type: ignore[arg-type]


def _alive(pid: int) -> bool:
    return bool(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)


def _wait_for(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
