"""A program that is not the model's gives way to that of another road of the tracer, if that one's is."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.parity.report import ParityReport
from bench.run_folder import RunFolder
from export.artifact import ProgramRecord, read_artifact
from export.record import read
from pipeline.stages.refused import RefusedRoads
from tests.conftest import pipeline
from tests.pipeline.conftest import NET, RECIPE

RIGHT_BY_STRICT = NET.replace(
    "        return torch.tanh(self.fc(x))\n",
    """        y = torch.tanh(self.fc(x))
        if torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling():
            return y * 1.00002
        return y
""",
)
"""Traced as usual it computes what the trial takes for rounding; strictly it does not."""
WRONG_BY_ALL = RIGHT_BY_STRICT.replace(" and not torch.compiler.is_dynamo_compiling()", "")


def up_to_parity(folder: Path, net: str) -> tuple[RunFolder, str]:
    """A run's folder, and what the run said."""
    (folder / "net.py").write_text(net)
    recipe = RECIPE.replace('("eager", "torchscript", "onnx")', '("eager", "exported"), required=("eager",)')
    (folder / "cheap.py").write_text(recipe.replace("epochs=25", "epochs=1"))
    done = pipeline("cheap.py", "--only", "parity", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    [made] = (folder / "artifacts" / "cheap").iterdir()
    return RunFolder(made), done.stdout + done.stderr


def test_a_wrong_program_is_traced_by_another_road_and_all_is_made_from_that(tmp_path: Path) -> None:
    files, said = up_to_parity(tmp_path, RIGHT_BY_STRICT)
    assert "refused as traced by torch.export, and traced by another road" in said
    program = read(ProgramRecord, files.program_record)
    assert program.facts["road"] == "strict torch.export"
    assert "something else than the model" in program.facts["not_by_torch.export"]
    assert read(ParityReport, files.parity_report("exported")).status == "pass"
    assert read_artifact(files.artifact("exported")).facts["program_road"] == "strict torch.export"


@pytest.mark.slow
def test_a_rerun_takes_the_other_road_at_once(tmp_path: Path) -> None:
    up_to_parity(tmp_path, RIGHT_BY_STRICT)
    _, said = up_to_parity(tmp_path, RIGHT_BY_STRICT)
    assert "refused as traced" not in said
    assert "traced in" not in said
    assert "exported: pass" in said


@pytest.mark.slow
def test_where_every_road_traces_it_wrongly_the_first_stays_and_is_refused(tmp_path: Path) -> None:
    files, said = up_to_parity(tmp_path, WRONG_BY_ALL)
    assert "no other road traces what the model computes" in said
    assert read(ProgramRecord, files.program_record).facts["road"] == "torch.export"
    assert read(ParityReport, files.parity_report("exported")).status == "fail"
    assert read(RefusedRoads, files.refused_roads("program")).closed
    _, said = up_to_parity(tmp_path, WRONG_BY_ALL)
    assert "traced by another road" not in said
