"""A serving folder whose current version changes while clients ask."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.bundle import releases
from tests.conftest import ROOT, environ
from tests.oip.checks import CHECKS
from tests.pipeline.bundles import alter_weight
from tests.pipeline.serving.servers import Started, serving
from tests.pipeline.serving.test_process import Asking, serve, under_load

pytestmark = pytest.mark.extra


def put(folder: Path, bundle: Path, change: Callable[[Path], None] = lambda _: None) -> None:
    """A release, as ``ship`` makes one."""

    def fill(target: Path) -> None:
        shutil.copytree(bundle, target, dirs_exist_ok=True)
        change(target)

    with releases.opened(folder):
        releases.put(folder, fill, keep_count=5)


def index(server: Started) -> dict[str, str]:
    (row,) = server.client().send("POST", "/v2/repository/index").fields
    return dict(row)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_new_version_takes_over_under_load(built: Path, tmp_path: Path) -> None:
    put(tmp_path, built / "bundle")
    with serving(tmp_path, "--follow-s", "0.05") as server:
        assert index(server) == {"name": "seed", "version": "1", "state": "READY", "reason": ""}
        clients = under_load(server)
        put(tmp_path, built / "bundle")
        wait_until(lambda: index(server)["version"] == "2")
        server.leave()
        check(clients)


def check(clients: list[Asking]) -> None:
    """Each was answered until the server left, by both versions."""
    for client in clients:
        client.join(30)
    assert [client.lost for client in clients] == [[]] * len(clients)
    assert {answer.status for client in clients for answer in client.answers} == {200}
    assert {answer.fields["model_version"] for client in clients for answer in client.answers} == {"1", "2"}


@pytest.mark.slow
def test_a_bad_version_does_not_take_over_and_a_rollback_is_followed(built: Path, tmp_path: Path) -> None:
    bundle = built / "bundle"
    put(tmp_path, bundle)
    with serving(tmp_path, "--follow-s", "0.05") as server:
        assert index(server) == {"name": "seed", "version": "1", "state": "READY", "reason": ""}
        clients = under_load(server)
        put(tmp_path, bundle)
        wait_until(lambda: index(server)["version"] == "2")
        put(tmp_path, bundle, lambda folder: alter_weight(folder, 1.5))
        wait_until(lambda: index(server)["reason"] == "a newer version was refused")
        assert index(server)["version"] == "2"
        assert server.client().infer(server.client().example()).fields["model_version"] == "2"
        releases.switch(tmp_path, 1)
        wait_until(lambda: index(server)["version"] == "1")
        assert server.client().get("/v2/models/seed/versions/2").status == 404
        server.leave()
        check(clients)
        refused = [event for event in server.events() if "refused" in event["event"]]
        assert len(refused) == 1  # the same bad version is not tried again and again
        assert "probability" in refused[0]["event"]


@pytest.mark.slow
@pytest.mark.parametrize("artifact", ["torchscript", "aotinductor", "compile"])
def test_artifacts_of_torch_are_served_where_somebody_vouches_for_them(
    built: Path, tmp_path: Path, artifact: str
) -> None:
    arguments = ["ship", built, "--to", tmp_path, "--also", artifact]
    command = [sys.executable, "-m", "torchstone", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environ())
    assert done.returncode == 0, done.stderr
    refused = serve(tmp_path, "--artifact", artifact)
    assert refused.returncode == 1
    assert "such a file can hold code" in refused.stderr
    with serving(tmp_path, "--artifact", artifact, "--trust") as server:
        for rule in CHECKS.values():
            rule(server.client())


@pytest.mark.slow
def test_models_are_loaded_and_unloaded_where_that_is_allowed(built: Path, server: Started) -> None:
    assert server.client().send("POST", "/v2/repository/models/seed/unload").status == 403
    with serving(built / "bundle", "--control") as own:
        client = own.client()
        assert client.send("POST", "/v2/repository/models/no_such_model/load").status == 404
        assert client.send("POST", "/v2/repository/models/seed/unload", b"{}").status == 200
        assert client.infer({"inputs": []}).status == 503
        assert client.get("/v2/health/ready").status == 503
        assert index(own)["state"] == "UNAVAILABLE"
        assert client.send("POST", "/v2/repository/models/seed/load").status == 200
        assert client.infer(client.example()).status == 200
        assert client.get("/v2/health/ready").status == 200
