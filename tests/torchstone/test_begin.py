"""How a person begins: ``torchstone list`` says what there is, ``torchstone init`` writes a recipe that runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export import hints, registry
from export.errors import UserError
from pipeline.recipes import built_in
from tests.torchstone.test_main import command
from torchstone.commands import init, listing


def test_the_list_has_every_recipe_and_backend_and_how_to_get_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert listing.main(["--json", "--device", "cpu"]) == 0
    inventory = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in inventory["recipes"]] == [*built_in()]
    assert {entry["name"]: entry["missing"] for entry in inventory["backends"]} == {
        name: registry.get(name).unavailable("cpu") for name in registry.names()
    }
    extras = {entry["name"]: entry["missing"] for entry in inventory["extras"]}
    assert {"digits", "openvino", "sentence", "signing"} <= extras.keys()
    assert listing.main(["--device", "cpu"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, missing in extras.items():
        assert missing is None or hints.install(name) in shown
    assert f"{'✗' if extras['sentence'] else '✓'} sentence" in shown


def test_a_new_recipe_runs_as_it_stands(tmp_path: Path) -> None:
    made = command("init", "wine.py", cwd=tmp_path)
    assert made.returncode == 0
    assert made.stdout.startswith("wrote wine.py\nrun it: ")
    assert made.stdout.endswith(" -m torchstone run wine.py --help\n")
    done = command("run", "wine.py", "--only", "build", "--backends", "eager", "--required", "eager", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    accuracy = float(done.stdout.partition("(test)")[0].rpartition("Accuracy:")[2].strip().rstrip("%"))
    assert accuracy > 90
    assert len([*(tmp_path / "artifacts" / "wine").glob("*/recipe.json")]) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("there.py", "there.py is there already, and is left as it is"),
        ("wine", "its file must be called like wine.py, got wine"),
        ("two-words.py", "its file must be called like wine.py"),
        ("json.py", "json.py would hide the module 'json'"),
        ("export.py", "export.py would hide the module 'export'"),
        ("nowhere/wine.py", "there is no folder nowhere: make it first"),
    ],
)
def test_nothing_is_overwritten_or_hidden(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.py").write_text("precious")
    with pytest.raises(UserError, match=reason):
        init.main([name])
    assert Path("there.py").read_text() == "precious"
    assert [*tmp_path.iterdir()] == [tmp_path / "there.py"]
