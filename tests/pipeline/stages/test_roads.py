"""What parity refuses is built by another road: with the roads closed the same artifact stays refused."""

from __future__ import annotations

import pytest

from bench.parity.report import ParityReport
from bench.run_folder import RunFolder
from bench.verdict.judge import Failure
from export.artifact import Artifact, read_artifact
from export.record import read
from pipeline.stages.refused import RefusedRoads
from pipeline.stages.roads import refusal
from tests.conftest import pipeline
from tests.pipeline.conftest import NET, RECIPE

ANSWERS_OTHERWISE = NET.replace(
    "        return torch.tanh(self.fc(x))\n",
    """        y = torch.tanh(self.fc(x))
        if torch.jit.is_scripting():
            return y * 1.0001
        if torch.onnx.is_in_onnx_export():
            return y * 1.0001
        return y
""",
)
"""Scripted, or in the older ONNX exporter by either road, it computes what the trial takes for rounding."""
ROWS = ("torchscript", "onnx-legacy")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """A run up to parity, and what it said."""
    folder = tmp_path_factory.mktemp("roads")
    (folder / "net.py").write_text(ANSWERS_OTHERWISE)
    recipe = RECIPE.replace('("eager", "torchscript", "onnx")', f"{ROWS}, required={ROWS[:1]}").replace(
        "epochs=25", "epochs=1"
    )
    (folder / "cheap.py").write_text(recipe)
    done = pipeline("cheap.py", "--only", "parity", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    [made] = (folder / "artifacts" / "cheap").iterdir()
    return RunFolder(made), done.stdout + done.stderr


def artifact_and_report(files: RunFolder, name: str) -> tuple[Artifact, ParityReport]:
    return read_artifact(files.artifact(name)), read(ParityReport, files.parity_report(name))


def test_an_artifact_that_parity_refuses_gives_way_to_that_of_the_next_road(run: tuple[RunFolder, str]) -> None:
    files, said = run
    artifact, report = artifact_and_report(files, "torchscript")
    assert (artifact.facts["road"], report.status) == ("trace", "pass")
    assert artifact.facts["not_by_script"].startswith("parity: ")
    assert "torchscript: refused as built by script, and built by another road" in said
    assert read(RefusedRoads, files.refused_roads("torchscript")).left_out.keys() == {"script"}


def test_where_no_road_passes_the_first_stays_refused_with_its_own_reason(run: tuple[RunFolder, str]) -> None:
    files, said = run
    artifact, report = artifact_and_report(files, "onnx-legacy")
    assert (artifact.facts["road"], report.status) == ("trace", "fail")
    assert "onnx-legacy: no other road builds one that passes" in said
    assert [path.name for path in files.path.glob("artifacts/.*")] == []
    assert (files.log / "other-roads" / "parity-onnx-legacy.log").exists()


def test_a_rerun_tries_no_road_again(run: tuple[RunFolder, str]) -> None:
    files, _ = run
    before = {name: artifact_and_report(files, name) for name in ROWS}
    again = pipeline("cheap.py", "--only", "parity", cwd=files.path.parents[2])
    assert again.returncode == 0, again.stdout + again.stderr
    assert "another road" not in again.stdout + again.stderr
    assert "torchscript: reused" in again.stdout + again.stderr
    assert {name: artifact_and_report(files, name) for name in ROWS} == before


@pytest.mark.slow
def test_with_parity_asked_otherwise_every_road_is_open_again(run: tuple[RunFolder, str]) -> None:
    files, _ = run
    again = pipeline("cheap.py", "--only", "parity", "--parity.rows-count", "32", cwd=files.path.parents[2])
    said = again.stdout + again.stderr
    assert "onnx-legacy: refused as built by trace, and built by another road" in said
    assert "torchscript: refused as built by script, and built by another road" in said


@pytest.mark.parametrize(
    ("cause", "is_refused"),
    [
        ("crashed: killed by SIGSEGV", True),
        ("timeout: it took longer than 60 s", False),
        ("out-of-memory: killed", False),
    ],
)
def test_what_the_machine_had_no_room_for_is_not_refused(cause: str, is_refused: bool) -> None:
    end = Failure(step="parity", cause=cause, log="log", reproduce="script")
    assert (refusal(end) is not None) == is_refused
