"""A run's records, damaged and forged: one sentence with the file's name, or made anew; never believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from bench.parity.report import ParityReport
from bench.run_folder import RunFolder
from bench.verdict.judge import Verdict
from export.errors import RecordError
from export.files import FileDigest, digest_files, is_inside
from export.record import read
from pipeline.bundle import golden, writer
from pipeline.bundle.evidence import judged_verdict
from pipeline.verifier import files
from tests.conftest import pipeline
from tests.measure import records
from tests.pipeline.bundles import edit
from tests.pipeline.conftest import latest


def test_no_damage_to_a_record_is_a_defect_or_believed(finished: Path) -> None:
    tallies = records.fuzz(latest(finished), 400, 1, lambda text: None)
    assert all(tally.refused_count and tally.cases_count > 20 for tally in tallies.values())
    assert sum(tally.judged_count for tally in tallies.values()) == 20


def test_the_fuzz_finds_what_is_believed_without_judging_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: a verdict that is taken at its word."""
    monkeypatch.setattr(records, "judged_verdict", lambda run: read(Verdict, run.verdict))
    monkeypatch.setattr(records, "_JUDGED_EVERY", 1)
    with pytest.raises(records.Defect, match="another verdict was accepted"):
        records.fuzz(latest(finished), 600, 1, lambda text: None)


# --- findings and verdicts --------------------------------------------------------------------------------------------


def _worse(fields: Any) -> None:
    fields["outputs"][0]["peak_ratio"] = 1e9


FORGED: dict[str, Callable[[Any], Any]] = {
    "an error of 1e9 that passes": _worse,
    "a failed finding that passes": lambda fields: fields["checks"][0].update(status="fail"),
    "an unclear finding that passes": lambda fields: fields["checks"][0].update(status="inconclusive"),
    "a failed verdict without a finding": lambda fields: fields.update(status="fail"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_parity_report_that_contradicts_its_findings_is_refused_and_made_anew(kind: str, mine: Path) -> None:
    path = RunFolder(latest(mine)).parity_report("onnx")
    edit(path, FORGED[kind])
    with pytest.raises(RecordError, match=r"onnx\.json .* the report says"):
        read(ParityReport, path)


@pytest.mark.slow
def test_a_damaged_run_is_made_anew(mine: Path) -> None:
    """All kinds of record at once; what a run leaves is then what it was."""
    run = RunFolder(latest(mine))
    before = judged_verdict(run)
    edit(run.parity_report("onnx"), _worse)
    edit(run.session, lambda fields: fields["control_samples"][0].update(samples_s=[1e-6]))
    torchscript = run.artifact("torchscript") / "artifact.json"
    edit(torchscript, lambda fields: fields["signature"]["inputs"][0].update(name="?"))
    run.recipe_record.write_bytes(b"{")
    run.verdict.write_bytes(b"[" * 100_000)
    done = pipeline("cheap.py", "--json", cwd=mine)
    assert done.returncode == 0, done.stdout + done.stderr
    again = judged_verdict(run)
    assert [(row.name, row.shippable) for row in again.rows] == [(row.name, row.shippable) for row in before.rows]


def _promoted(fields: Any) -> None:
    """The slowest is called the winner."""
    fields["winner"] = next(
        row["name"] for row in fields["rows"] if row["shippable"] and row["name"] != fields["winner"]
    )


def _no_longer_required(fields: Any) -> None:
    """What the recipe asks for is not the verdict's to say."""
    next(row for row in fields["rows"] if row["required"])["required"] = False


def _a_row_less(fields: Any) -> None:
    fields["rows"].pop(0)


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (_promoted, r"verdict\.json is not what the records of the run say \(winner\)"),
        (_no_longer_required, r"verdict\.json is not what the records of the run say \(torchscript: required\)"),
        (_a_row_less, r"verdict\.json has no row for eager"),
    ],
)
def test_a_verdict_that_does_not_follow_from_the_records_does_not_ship(
    forge: Callable[[Any], None], reason: str, mine: Path, tmp_path: Path
) -> None:
    edit(RunFolder(latest(mine)).verdict, forge)
    with pytest.raises(RecordError, match=reason):
        writer.make(RunFolder(latest(mine)), tmp_path / "bundle", "key", writer.Choice())
    assert not (tmp_path / "bundle").exists()


def test_without_judging_again_it_ships(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin."""
    edit(RunFolder(latest(mine)).verdict, _promoted)
    monkeypatch.setattr(writer, "judged_verdict", lambda run: read(Verdict, run.verdict))
    (tmp_path / "bundle").mkdir()
    writer.make(RunFolder(latest(mine)), tmp_path / "bundle", "key", writer.Choice())
    assert json.loads((tmp_path / "bundle" / "bundle.json").read_bytes())["winner"] != "onnx"


def test_names_that_some_file_systems_take_for_one_have_files_of_their_own() -> None:
    names = golden._file_names(["x", "X", "y"])
    assert names == ["x", "X.1", "y"]
    assert golden._file_names(["image", "mask"]) == ["image", "mask"]


def test_a_bundle_that_its_own_check_refuses_is_not_made(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason: here a writer that names a file of golden answers that it did not write."""
    (tmp_path / "bundle").mkdir()

    def without_arrays(root: Path, paths: Iterable[Path]) -> tuple[FileDigest, ...]:
        return digest_files(root, (path for path in paths if path.suffix != ".npy"))

    monkeypatch.setattr(writer, "digest_files", without_arrays)
    with pytest.raises(RecordError, match="does not pass its own check, nothing is shipped"):
        writer.make(RunFolder(latest(mine)), tmp_path / "bundle", "key", writer.Choice())


# --- paths ------------------------------------------------------------------------------------------------------------

ELSEWHERE = [
    "../../x",
    "/etc/x",
    "a/../../x",
    "a//b",
    "./a",
    "a\\b",
    "c:/x",
    "a\0b",
    "",
    "..",
    "a/\x1b[2J",
    "/".join("a" * 600),
]


@pytest.mark.parametrize("path", ELSEWHERE)
def test_a_path_of_a_record_leads_below_its_folder_or_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="must be relative and lead below"):
        FileDigest(path=path, size_bytes=0, sha256="")
    assert not files.is_inside(path)  # the rule of the check that stands alone
    assert is_inside("golden/00/inputs/x.npy")


def test_a_forged_run_does_not_write_outside_of_the_bundle(mine: Path, tmp_path: Path) -> None:
    run = RunFolder(latest(mine))
    shutil.copy(run.artifact("onnx") / "model.onnx", run.path / "x")
    edit(run.artifact("onnx") / "artifact.json", lambda fields: fields["files"][0].update(path="../../x"))
    with pytest.raises(RecordError, match=r"artifact\.json .* must be relative"):
        writer.make(run, tmp_path / "bundle", "key", writer.Choice())
    with pytest.raises(RecordError, match="cannot be the name of a file"):
        run.measurement("../../x")
