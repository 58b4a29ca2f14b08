"""What two runs differ in: real runs, records that say what became worse, and noise that must not."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from bench.run_folder import RunFolder
from bench.stats.effects import FAMILY_ERROR, Ratio, unpaired
from bench.timing.measurement import Measurement
from bench.verdict.judge import Row, Verdict
from export.errors import UserError
from export.record import from_json, parse, read, write
from pipeline.comparison import LEAST
from pipeline.comparison.changes import Comparison, Outcome, compare, outcome_of
from pipeline.comparison.side import Side
from pipeline.comparison.text import as_junit, as_markdown, difference
from pipeline.run import RecipeRecord
from tests.conftest import pipeline
from tests.pipeline.conftest import latest
from tests.torchstone.test_main import command


def side(run: Path) -> Side:
    return Side(run.name, RunFolder(run))


def outcomes(comparison: Comparison) -> dict[tuple[str, str], Outcome]:
    return {(change.kind, change.what): change.outcome for change in comparison.changes}


def changed(run: Path, folder: Path, **rows: dict[str, object]) -> Path:
    """A copy of a run whose verdict says something else of these rows."""
    copy = folder / "after" / run.name
    shutil.copytree(run, copy)
    verdict = read(Verdict, RunFolder(copy).verdict)
    new = tuple(replace(row, **rows.get(row.name, {})) for row in verdict.rows)  # type: ignore[arg-type]
    write(RunFolder(copy).verdict, replace(verdict, rows=new))
    return copy


def test_a_run_does_not_differ_from_itself(mine: Path) -> None:
    run = latest(mine)
    done = command("compare", str(run), str(run), "--json")
    assert done.returncode == 0, done.stderr
    comparison = from_json(Comparison, _fields(done.stdout), "the output")
    assert not {"worse", "better", "other"} & {change.outcome for change in comparison.changes}
    assert {"time", "parity", "ships", "size"} <= {change.kind for change in comparison.changes}
    assert not comparison.refused


def _fields(text: str) -> dict[str, object]:
    fields = parse(text.encode())
    assert fields.pop("schema") == Comparison.SCHEMA
    return dict(fields)


def test_what_became_wrong_larger_or_is_gone_is_worse_and_ends_with_1(finished: Path, tmp_path: Path) -> None:
    run = latest(finished)
    size = next(row.size_bytes for row in read(Verdict, run / "verdict.json").rows if row.name == "torchscript")
    assert size
    after = changed(run, tmp_path, onnx={"parity": "fail", "shippable": False}, torchscript={"size_bytes": size * 2})
    found = outcomes(compare(side(run), side(after)))
    assert found["parity", "onnx"] == found["ships", "onnx"] == found["size", "torchscript"] == "worse"
    assert outcomes(compare(side(after), side(run)))["parity", "onnx"] == "better"
    junit = tmp_path / "compare.xml"
    done = command("compare", str(run), str(after), "--junit", str(junit))
    assert done.returncode == 1
    assert "parity" in done.stdout
    suite = ElementTree.parse(junit).getroot()
    assert suite.get("failures") == str(sum(it == "worse" for it in found.values()))
    assert {case.get("name") for case in suite if case.find("failure") is not None} >= {"onnx", "torchscript"}
    gone = changed(run, tmp_path / "gone")
    verdict = read(Verdict, gone / "verdict.json")
    write(gone / "verdict.json", replace(verdict, rows=verdict.rows[:-1]))
    assert outcomes(compare(side(run), side(gone)))["row", "onnx"] == "worse"


def test_times_of_another_machine_do_not_compare_and_the_field_is_named(finished: Path, tmp_path: Path) -> None:
    run, after = latest(finished), changed(latest(finished), tmp_path)
    record = read(RecipeRecord, after / "recipe.json")
    environment = record.environment | {"machine": record.environment["machine"] | {"cpu": "another"}}
    write(after / "recipe.json", replace(record, environment=environment))
    comparison = compare(side(run), side(after))
    assert [why.partition(" was ")[0] for why in comparison.refused] == ["times, starts and memory: processor"]
    assert not {"time", "start-up", "memory"} & {change.kind for change in comparison.changes}
    assert "* not compared: times, starts and memory: processor was" in as_markdown(comparison)
    assert not comparison.regressed(strict=False)
    assert comparison.regressed(strict=True)


def test_a_limit_that_another_machine_breaks_is_no_loss_and_a_wrong_artifact_is(finished: Path, tmp_path: Path) -> None:
    run = latest(finished)
    after = changed(run, tmp_path, onnx={"shippable": False}, torchscript={"shippable": False, "parity": "fail"})
    assert outcomes(compare(side(run), side(after)))["ships", "onnx"] == "worse"
    record = read(RecipeRecord, after / "recipe.json")
    environment = record.environment | {"machine": record.environment["machine"] | {"cores_count": 999}}
    write(after / "recipe.json", replace(record, environment=environment))
    found = outcomes(compare(side(run), side(after)))
    assert found["ships", "onnx"] == "inconclusive"
    assert found["ships", "torchscript"] == found["parity", "torchscript"] == "worse"


def test_a_time_that_one_run_cannot_state_is_said_to_be_untold(finished: Path, tmp_path: Path) -> None:
    run, after = latest(finished), changed(latest(finished), tmp_path)
    place = RunFolder(after).measurement("onnx")
    measured = read(Measurement, place)
    write(
        place, replace(measured, samples=tuple(replace(it, spoilt_count=len(it.samples_s)) for it in measured.samples))
    )
    comparison = compare(side(run), side(after))
    untold = [change for change in comparison.changes if change.kind == "time" and "onnx" in change.what]
    assert [change.outcome for change in untold] == ["inconclusive"] * 2
    assert all("after: during" in (change.why or "") for change in untold)
    assert not comparison.regressed(strict=False)
    assert comparison.regressed(strict=True)


def test_runs_of_two_recipes_do_not_compare(finished: Path, tmp_path: Path) -> None:
    run, after = latest(finished), changed(latest(finished), tmp_path)
    record = read(RecipeRecord, after / "recipe.json")
    write(after / "recipe.json", replace(record, name="another"))
    with pytest.raises(UserError, match=r"is of 'cheap', .* of 'another'"):
        compare(side(run), side(after))


def test_a_run_that_is_not_there_or_has_no_verdict_is_named(mine: Path) -> None:
    assert "there is no run 'nothing'" in command("compare", "nothing", "nothing", "--out", str(mine)).stderr
    (latest(mine) / "verdict.json").unlink()
    done = command("compare", str(latest(mine)), str(latest(mine)))
    assert done.returncode == 2
    assert "has no verdict to compare" in done.stderr


def test_noise_is_neither_better_nor_worse_and_half_as_long_again_is() -> None:
    """At the quick depth: three processes a side that differ by 2 %, fifteen comparisons; 2,000 times among equals."""
    draw, error = random.Random(0), FAMILY_ERROR / 15

    def logs(shift: float) -> list[float]:
        return [draw.gauss(shift, 0.02) for _ in range(3)]

    equals = Counter(outcome_of(unpaired(logs(0), logs(0), error), LEAST, 0.02) for _ in range(2000))
    assert equals["worse"] + equals["better"] == 0
    slower = Counter(outcome_of(unpaired(logs(0.4), logs(0), error), LEAST, 0.02) for _ in range(200))
    assert slower["worse"] > 150
    without_floor = Counter(outcome_of(unpaired(logs(0), logs(0)), 1e-9, 0.0) for _ in range(2000))
    wrong = without_floor["worse"] + without_floor["better"]
    assert 40 < wrong < 140  # the twin: an interval alone is wrong once in twenty times


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(1.2, 1.3, "worse"), (0.7, 0.8, "better"), (0.95, 1.05, "same"), (0.95, 1.3, "inconclusive"),
     (None, 0.8, "better"), (1.2, None, "worse"), (None, None, "inconclusive")],
)  # fmt: skip
def test_an_interval_says_what_it_says(low: float | None, high: float | None, outcome: Outcome) -> None:
    assert outcome_of(Ratio(value=1.0, low=low, high=high), 0.1, 0.0) == outcome
    loud = outcome_of(Ratio(value=1.0, low=low, high=high), 0.1, 1.0)
    assert loud == ("inconclusive" if None in (low, high) else "same")


@pytest.mark.slow
def test_a_model_that_cannot_be_exported_any_more_fails_the_gate(mine: Path) -> None:
    before = latest(mine)
    net = (mine / "net.py").read_text()
    (mine / "net.py").write_text(
        net.replace("torch.tanh(self.fc(x))", "torch.special.gammainc(x.abs(), torch.tanh(self.fc(x)).abs())")
    )
    pipeline("cheap.py", cwd=mine)
    after = latest(mine)
    assert after != before
    found = outcomes(compare(side(before), side(after)))
    assert found["ships", "onnx"] == found["verdict", ""] == "worse"
    rows: dict[str, Row] = {row.name: row for row in read(Verdict, after / "verdict.json").rows}
    assert not rows["onnx"].built


def test_markdown_and_sentences_keep_odd_names_apart(finished: Path, tmp_path: Path) -> None:
    run, after = latest(finished), changed(latest(finished), tmp_path, onnx={"name": "a|b<i>", "speeds": ()})
    comparison = compare(side(run), side(after))
    text = as_markdown(comparison)
    assert "a|b<i>" not in text
    assert all(line.count("|") == 7 + line.count("\\|") for line in text.splitlines() if line.startswith("|"))
    assert as_junit(comparison).startswith(b"<?xml")
    assert {difference(change) for change in comparison.changes if change.kind == "row"} == {"worse", "other"}
    html = MarkdownIt("gfm-like", {"linkify": False}).render(text)
    assert html.count("<table>") == 2
    assert "<i>" not in html
