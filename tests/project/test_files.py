"""Issue forms, workflows and the Dockerfile call what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from torchstone.main import COMMANDS

GITHUB = ROOT / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
CALLERS = [*WORKFLOWS, ROOT / "Dockerfile", ROOT / ".ci" / "run"]


def test_there_is_a_form_for_each_kind_of_issue() -> None:
    assert [path.stem for path in FORMS] == ["bug", "feature", "verdict"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_is_whole_and_asks_for_commands_that_exist(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"]["label"] for field in form["body"])
    assert set(re.findall(r"`torchstone (\w+)", path.read_text())) <= set(COMMANDS)
    if path.stem == "bug":
        assert {"list", "log"} <= {field["id"] for field in form["body"] if field["validations"]["required"]}


@pytest.mark.parametrize("path", CALLERS, ids=lambda path: path.name)
def test_what_runs_elsewhere_calls_targets_that_exist(path: Path) -> None:
    called = re.findall(r"(?:run: |RUN |^|\[\")make(?: |\", \")([\w./-]+)", path.read_text(), flags=re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    assert [target for target in called if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)] == []
    assert called or path.stem == "release"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_read_alone_unless_a_job_says_what_else_it_needs(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    more = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert more == ({"publish": {"id-token": "write"}} if path.stem == "release" else {})
    assert "secrets." not in path.read_text()
    assert all(job["timeout-minutes"] for job in workflow["jobs"].values())
