from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from export.forked import close_servers
from export.worker import Done, Failed, Workspace, expect_children
from tests import jobs
from tests.conftest import environ

VARIABLE = "TORCHSTONE_TEST_VARIABLE"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every child is a new Python")


def test_children_of_one_server_begin_with_torch_imported_and_fresh_ones_without(tmp_path: Path) -> None:
    first, second = begun(tmp_path / "a"), begun(tmp_path / "b")
    assert (first["torch"], first["server"]) == ("True", second["server"])
    assert (first["folder"], second["folder"]) == (str(tmp_path / "a"), str(tmp_path / "b"))
    fresh = begun(tmp_path, fresh=True)
    assert (fresh["torch"], fresh["main"], fresh["server"]) == ("False", "export.child", str(os.getpid()))


def test_what_is_started_early_is_what_the_children_are_forked_from(tmp_path: Path) -> None:
    close_servers()
    expect_children()
    (early,) = (child.pid for child in psutil.Process().children() if "export.forkserver" in child.cmdline())
    assert begun(tmp_path)["server"] == str(early)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_child_does_what_waits_for_its_end_and_takes_nothing_apart(fresh: bool, tmp_path: Path) -> None:
    end = Workspace(folder=tmp_path / "log").run(jobs.note_the_end, str(tmp_path), "end", fresh=fresh)
    assert isinstance(end, Done), end
    assert sorted(path.name for path in tmp_path.iterdir()) == ["handler", "log"]


def test_a_python_that_ends_as_usual_takes_all_apart(tmp_path: Path) -> None:
    """The twin."""
    code = f"from tests import jobs\njobs.note_the_end({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], env=environ(), check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["handler", "taken apart"]


def test_another_environment_is_another_server_and_an_idle_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started in a folder with a file that has the name of a package, as another project's may: it is not run."""
    (tmp_path / "torch.py").write_text("raise RuntimeError('this ran')")
    monkeypatch.chdir(tmp_path)
    before = begun(tmp_path)
    monkeypatch.setenv(VARIABLE, "set")
    after = begun(tmp_path)
    assert (before["variable"], after["variable"], after["torch"]) == ("", "set", "True")
    assert not psutil.pid_exists(int(before["server"]))


def test_where_the_server_is_killed_its_child_crashed_and_the_next_has_another(tmp_path: Path) -> None:
    server = psutil.Process(int(begun(tmp_path)["server"]))
    server.suspend()  # a request waits in its socket when it is killed
    code = f"import os, time; time.sleep(1); os.kill({server.pid}, 9)"
    with subprocess.Popen([sys.executable, "-c", code]):
        end = Workspace(folder=tmp_path).run(jobs.double, 1, "lost")
    assert isinstance(end, Failed)
    assert (end.status, end.cause) == ("crashed", "killed by SIGKILL")
    assert begun(tmp_path)["server"] != str(server.pid)


def test_the_server_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom export.worker import Workspace\nfrom tests.jobs import begin\n"
        "print(Workspace(folder=Path(sys.argv[1])).run(begin, '', 'one').result['server'], flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "log"], env=environ(), capture_output=True, text=True, check=False
    )
    server, deadline_s = int(done.stdout), time.monotonic() + 10.0
    while psutil.pid_exists(server):
        assert time.monotonic() < deadline_s, "the server outlived its parent"
        time.sleep(0.05)


def begun(folder: Path, *, fresh: bool = False) -> dict[str, str]:
    end = Workspace(folder=folder).run(jobs.begin, VARIABLE, "begin", fresh=fresh)
    assert isinstance(end, Done), end
    return end.result
