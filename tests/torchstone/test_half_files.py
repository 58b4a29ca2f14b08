"""Files in half precision of a model in single are judged by what that makes of it, or refused in a sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import torchstone
from bench.parity.check import Check
from bench.parity.levels.fidelity import rounds_by_intent
from bench.parity.report import ParityReport
from bench.run_folder import RunFolder
from export.artifact import read_artifact
from export.foreign.narrowed import coarser, half_of, narrowed
from export.record import read
from tests.conftest import environ
from tests.torchstone.foreign_files import Net, examples

RIGHT = {
    "stored": "stored.onnx", "stored16": "stored16.onnx", "traced": "half.pt", "traced16": "half16.pt",
    "program": "half16.pt2",
}  # fmt: skip


def judged_files(tmp_path_factory: pytest.TempPathFactory, names: Mapping[str, str], *flags: str) -> torchstone.Result:
    """All of them judged at once, written by another process as the user would."""
    folder = tmp_path_factory.mktemp("files")
    command = [sys.executable, "-m", "tests.torchstone.half_files", str(folder), *flags]
    subprocess.run(command, env=environ(), check=True)
    return torchstone.export(
        Net(), examples(), out=tmp_path_factory.mktemp("out"), backends=("eager",), quiet=True,
        artifacts={name: folder / file for name, file in names.items()},
    )  # fmt: skip


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> torchstone.Result:
    files = {"half": "half.onnx", "single": "single.onnx", "off": "off.onnx", "borders": "borders.pt"}
    return judged_files(tmp_path_factory, files)


def checks(judged: torchstone.Result, name: str) -> Mapping[str, list[Check]]:
    report = read(ParityReport, RunFolder(Path(judged.folder)).parity_report(name))
    by_level: dict[str, list[Check]] = {}
    for check in report.checks:
        by_level.setdefault(check.level, []).append(check)
    return by_level


def test_a_right_file_passes_by_its_own_precisions_error_and_rounded_weights(judged: torchstone.Result) -> None:
    assert judged["half"].status == "pass"
    found = checks(judged, "half")
    assert found["weights"][0].message.startswith("5 rounded to float16")
    assert [check.status for check in found["error"]].count("reported") > 0  # by single precision's it is far off
    messages = [check.message for check in found["structure"] if check.status == "reported"]
    assert all("float16 ends at 65504" in message for message in messages)
    assert {check.status for check in found["fidelity"]} == {"pass"}


def test_what_is_in_single_precision_is_held_to_that(judged: torchstone.Result) -> None:
    """The twin."""
    assert judged["single"].status == "pass"
    assert "fidelity" not in checks(judged, "single")
    assert judged["single"].folder is not None
    assert read_artifact(judged["single"].folder).precision == "float32"


def test_a_weight_that_is_more_off_than_rounding_makes_it_is_never_right(judged: torchstone.Result) -> None:
    assert judged["off"].status == "inconclusive"
    assert "head.weight differs from the checkpoint" in judged["off"].reasons[0]
    assert "more than float16 makes of it" in judged["off"].reasons[0]


def test_half_precision_at_the_borders_is_one_sentence_with_the_remedy(judged: torchstone.Result) -> None:
    refused(judged, "borders", "let its forward cast what it takes")


def refused(judged: torchstone.Result, name: str, remedy: str) -> None:
    assert judged[name].status == "failed"
    (reason,) = judged[name].reasons
    assert remedy in reason
    assert "\n" not in reason


@pytest.mark.slow
def test_files_of_every_format_and_precision_are_judged_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    wrong = {"far": "far.onnx", "borders": "borders.onnx"}
    judged = judged_files(tmp_path_factory, RIGHT | wrong, "--every")
    assert {name: judged[name].status for name in RIGHT} == dict.fromkeys(RIGHT, "pass")
    assert judged["far"].status == "fail"
    assert any("times what float16 makes of eager's own" in reason for reason in judged["far"].reasons)
    refused(judged, "borders", "keep_io_types=True")


@pytest.mark.parametrize(
    ("kinds", "model", "precision", "half", "times"),
    [
        ("float16", "float32", "float16 from float32", "float16", 2.0**13),
        ("bfloat16+float16", "float32", "bfloat16+float16 from float32", "bfloat16", 2.0**16),
        ("bfloat16+float32", "float64", "bfloat16+float32 from float64", "bfloat16", 2.0**45),
        ("float16", "float16", "float16", None, 1.0),
        ("float16+float32", "float16+float32", "float16+float32", None, 1.0),
        ("float32", "float32", "float32", None, 1.0),
    ],
)
def test_only_what_has_fewer_bits_than_the_model_is_judged_so(
    kinds: str, model: str, precision: str, half: str | None, times: float
) -> None:
    assert narrowed(kinds, model) == precision
    assert (half_of(precision), coarser(precision)) == (half, times)
    assert rounds_by_intent(precision) == (half is not None)
    assert narrowed(None, model) is None
