"""Files that other tools made are judged beside what is built here, ship as it does, and are refused in a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import torchstone
from export.artifact import read_artifact
from export.errors import UserError
from export.files import digest_file
from tests.conftest import environ, pipeline
from tests.torchstone.foreign_files import Net, examples

RIGHT = {"mine": "dynamo.onnx", "old": "legacy.onnx", "program": "keywords.pt2", "trace": "trace.pt"}
WRONG = {"off": "wrong.onnx", "off-script": "wrong.pt", "swapped": "swapped.onnx"}
REFUSED = {"fixed": "fixed.onnx", "weights": "weights.pt"}
QUICK = torchstone.BenchSpec(
    batch_rows=(1,),
    processes_count=2,
    rounds_count=5,
    callers_s=0.02,
    cold_starts_count=0,
    warmup_s=0.02,
    calls_count=50,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the user's files, written by another process as the user would."""
    folder = tmp_path_factory.mktemp("files")
    subprocess.run(
        [sys.executable, "-m", "tests.torchstone.foreign_files", str(folder)], env=environ(), check=True
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def judged(files: Path, tmp_path_factory: pytest.TempPathFactory) -> torchstone.Result:
    """All of them judged at once."""
    return torchstone.export(
        Net(), examples(), out=tmp_path_factory.mktemp("out"), backends=("eager",), quiet=True,
        artifacts={name: files / file for name, file in (RIGHT | WRONG | REFUSED).items()},
    )  # fmt: skip


def test_right_files_of_every_tool_pass(judged: torchstone.Result, files: Path) -> None:
    assert {name: judged[name].status for name in RIGHT} == dict.fromkeys(RIGHT, "pass")
    mine, old = judged["mine"], judged["old"]
    assert mine.path is not None
    assert digest_file(mine.path) == digest_file(files / "dynamo.onnx")  # its names are the model's: not a byte differs
    assert old.path is not None
    assert [value.name for value in onnx.load(str(old.path)).graph.input] == ["ids", "mask"]
    assert old.folder is not None
    assert read_artifact(old.folder).facts["matched_by_order"] == "inputs and outputs"
    ids, mask = examples()
    answers = judged["program"].load()({"ids": ids.numpy(), "mask": mask.numpy()})
    assert abs(answers["scores"] - Net().eval()(ids, mask)["scores"].detach().numpy()).max() < 1e-5


def test_a_wrong_weight_and_swapped_outputs_are_found(judged: torchstone.Result) -> None:
    assert {name: judged[name].status for name in WRONG} == dict.fromkeys(WRONG, "fail")
    assert judged["off"].reasons[0].startswith("head.weight is off by ")
    assert "it is not as it is in the ONNX file" in judged["off"].reasons[0]
    assert "scores must have size 4 in dimension 1, got 32" in judged["swapped"].reasons[0]


def test_the_wrong_weight_of_a_foreign_file_is_located_in_the_users_code(judged: torchstone.Result) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.locate", str(judged.folder), "off"],
        env=environ(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "first at fault: head" in done.stdout
    assert "self.head(hidden)" in done.stdout


def test_what_cannot_be_taken_is_a_row_with_one_sentence(judged: torchstone.Result) -> None:
    assert {name: judged[name].status for name in REFUSED} == dict.fromkeys(REFUSED, "failed")
    assert "the file fixes dimension 0 of ids at 8, the model takes 'batch' in [1, 1024]" in judged["fixed"].reasons[0]
    assert "is no TorchScript file, or a damaged one (weights alone" in judged["weights"].reasons[0]
    assert "\n" not in judged["weights"].reasons[0]


@pytest.mark.slow
def test_a_foreign_winner_ships_with_its_weights_and_passes_its_own_check(files: Path, tmp_path: Path) -> None:
    result = torchstone.check(
        Net(), examples(), out=tmp_path / "out", backends=("eager",), quiet=True, bench=QUICK,
        artifacts={"mine": files / "dynamo.onnx"}, required=("mine",),
    )  # fmt: skip
    assert (result.good, result.winner) == (True, "mine")
    served = result.save(tmp_path / "serving")
    assert (served / "model.onnx").read_bytes() == (files / "dynamo.onnx").read_bytes()
    assert (served / "dynamo.onnx.data").exists()
    for arguments in (["pipeline.verify", served, "--no-speed"], ["pipeline.locate", result.folder, "mine"]):
        done = subprocess.run(
            [sys.executable, "-m", *map(str, arguments)], env=environ(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_recipe_takes_files_of_every_format_by_a_flag(built: Path, tmp_path: Path) -> None:
    given = {"a-onnx": "onnx/model.onnx", "a-graph": "torchscript/model.ts", "a-program": "exported/model.pt2",
             "a-package": "aotinductor/model.pt2"}  # fmt: skip
    flags = [text for name, file in given.items() for text in (name, str(built / "artifacts" / file))]
    done = pipeline(
        "seed", "--backends", "eager", "--required", "a-onnx", "--only", "parity", "--out", tmp_path,
        "--artifacts", *flags,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for name in given:
        assert f"parity   {name}: pass" in done.stdout


def test_bad_names_and_files_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    def refused(artifacts: dict[str, str | Path], message: str) -> None:
        with pytest.raises(UserError, match=message):
            torchstone.export(Net(), examples(), out=tmp_path / "out", quiet=True, artifacts=artifacts)

    text = tmp_path / "model.txt"
    text.write_text("no model")
    (tmp_path / "model.onnx").write_text("no model")
    (tmp_path / "model.pt2").write_text("no model")
    refused({"onnx": text}, "the artifact 'onnx' must not be called as a backend is")
    refused({"../up": text}, r"an artifact's name must be letters, digits, .* got '\.\./up'")
    refused({"mine": tmp_path / "none.onnx"}, "the artifact 'mine' must be a file, there is none at")
    refused({"mine": text}, r"model\.txt must end in \.pt, .*\.onnx, \.xml: its end says its format")
    refused({"mine": tmp_path / "model.onnx"}, r"model\.onnx is no ONNX file")
    refused({"mine": tmp_path / "model.pt2"}, "is neither a program nor a package of PyTorch's")
    assert not list((tmp_path / "out").glob("net/*/checkpoint"))


@pytest.mark.slow
def test_files_made_from_an_onnx_file_are_held_to_it_without_the_model(files: Path, tmp_path: Path) -> None:
    ids, mask = examples()
    result = torchstone.compare(
        files / "dynamo.onnx", {"old": files / "legacy.onnx", "off": files / "wrong.onnx"}, {"ids": ids, "mask": mask},
        out=tmp_path / "out", quiet=True, bench=QUICK, required=("old",),
    )  # fmt: skip
    assert {row.name: row.status for row in result} == {
        "eager": "pass",
        "original": "pass",
        "old": "pass",
        "off": "fail",
    }
    assert result.good
    assert result.winner in {"original", "old"}
    assert "RMS error is" in result["off"].reasons[0]
    assert result.assumptions[0].startswith("eager is dynamo.onnx, run node by node as it is written")
    with pytest.raises(UserError, match="nobody knows what values ids may take"):
        torchstone.compare(files / "dynamo.onnx", files / "legacy.onnx")
