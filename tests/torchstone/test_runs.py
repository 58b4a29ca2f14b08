"""The runs that are kept, and which of them go: real runs of a real recipe, opened and not worked on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export.errors import UserError
from pipeline.commands.named import find_run
from pipeline.console import Console
from pipeline.find import find
from pipeline.live.examples import describe
from pipeline.live.given import given
from pipeline.run import LATEST, open_run, set_link
from tests.models import Mlp
from tests.recipes.tiny import recipe
from torchstone.commands import clean, runs
from torchstone.commands.store import freed_bytes, stored_runs

Make = Callable[..., Path]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def make(out: Path) -> Make:
    """``make(seed)``: a run of the recipe ``tiny``; the later, the newer; ``latest`` leads to it if asked."""

    def made(seed: int, *, latest: bool = False) -> Path:
        located = find("tests.recipes.tiny")
        located = replace(located, recipe=replace(located.recipe, seed=seed))
        with open_run(located, "cpu", out, Console(quiet=True)) as run:
            if latest:
                set_link(run.folder, LATEST)
        os.utime(run.files.recipe_record, (seed, seed))
        return run.folder

    return made


def kept(out: Path) -> set[Path]:
    return {run.folder for run in stored_runs(out)}


def test_runs_are_listed_with_what_came_of_them(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(built.parent.parent)
    assert runs.main(["seed", "--out", out, "--json"]) == 0
    (run,) = [run for run in json.loads(capsys.readouterr().out) if run["folder"] == str(built)]
    verdict = json.loads((built / "verdict.json").read_text())
    assert (run["winner"], run["good"], run["is_latest"]) == (verdict["winner"], True, True)
    assert not run["is_held"]
    sizes = sum(path.stat().st_size for path in built.rglob("*") if path.is_file() and not path.is_symlink())
    assert run["size_bytes"] > sizes / 2
    assert runs.main(["seed", "--out", out]) == 0
    assert f"seed    {built.name}" in capsys.readouterr().out


def test_all_but_the_latest_and_the_newest_go(make: Make, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, latest, middle, newest = make(1), make(2, latest=True), make(3), make(4)
    (out / ".torchstone-removed" / f"tiny-{old.name}" / "left by an interrupted removal").mkdir(parents=True)
    assert clean.main(["--out", str(out), "--dry-run"]) == 0
    assert "would remove 2 of 4 runs" in capsys.readouterr().out
    assert kept(out) == {old, latest, middle, newest}
    assert clean.main(["--out", str(out)]) == 0
    listed = capsys.readouterr().out
    assert old.name in listed
    assert newest.name not in listed
    assert kept(out) == {latest, newest}
    assert (out / "tiny" / "latest").resolve() == latest
    assert sorted(path.name for path in out.iterdir()) == ["tiny"]
    assert clean.main(["--out", str(out)]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_a_run_that_has_a_name_is_taken_by_it_and_stays(
    make: Make, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, middle, newest = make(1), make(2, latest=True), make(3)
    assert runs.main(["tag", f"tiny@{old.name}", "base", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("tiny@base is ")
    assert find_run("tiny@base", out).path == old
    clean.main(["--out", str(out)])
    assert kept(out) == {old, middle, newest}
    runs.main(["tag", "tiny", "base", "--out", str(out)])  # it moves
    assert find_run("tiny@base", out).path == middle
    runs.main(["tiny", "--out", str(out), "--json"])
    listed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {run["key"]: run["tags"] for run in listed} == {old.name: [], middle.name: ["base"], newest.name: []}
    clean.main(["--out", str(out)])
    assert kept(out) == {middle, newest}


@pytest.mark.parametrize("name", ["latest", "given", "beef", "a/b", "..", "", "x" * 65])
def test_what_cannot_name_a_run_is_refused(make: Make, out: Path, name: str) -> None:
    make(1, latest=True)
    with pytest.raises(UserError, match="cannot name a run"):
        runs.main(["tag", "tiny", name, "--out", str(out)])
    assert find_run("tiny", out).path.is_dir()


def test_a_link_that_leads_elsewhere_names_no_run(make: Make, out: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    make(1).parent.joinpath("outside").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="there is no run 'tiny@outside'"):
        find_run("tiny@outside", out)


def test_nothing_of_a_recipe_goes_while_a_process_works_on_it(make: Make, out: Path) -> None:
    old, newest = make(1), make(3)
    located = find("tests.recipes.tiny")
    with open_run(replace(located, recipe=replace(recipe(), seed=2)), "cpu", out, Console(quiet=True)) as run:
        assert [stored.is_held for stored in stored_runs(out)].count(True) == 1
        clean.main(["--out", str(out)])
        assert kept(out) == {old, newest, run.folder}
    clean.main(["--out", str(out)])
    assert old not in kept(out)


def test_what_is_no_run_is_neither_listed_nor_removed(make: Make, out: Path, tmp_path: Path) -> None:
    old = make(1)
    make(2)
    elsewhere = tmp_path / "elsewhere"
    old.rename(elsewhere)
    old.symlink_to(elsewhere)  # a run outside
    copy = out / "tiny" / "0123456789ab"  # not named after its content
    copy.mkdir()
    (copy / "recipe.json").write_bytes((elsewhere / "recipe.json").read_bytes())
    (out / "tiny" / "notes").mkdir()
    (out / "tiny" / "torn").mkdir()
    (out / "tiny" / "torn" / "recipe.json").write_text('{"schema": "torchstone.recipe/1"')
    (out / "linked").symlink_to(out / "tiny")
    clean.main(["--out", str(out)])
    for place in (elsewhere / "recipe.json", old, copy / "recipe.json", out / "tiny" / "notes", out / "linked"):
        assert place.exists()
    assert len(kept(out)) == 1


def test_a_link_inside_a_run_is_removed_and_not_what_it_leads_to(make: Make, out: Path, tmp_path: Path) -> None:
    old = make(1)
    make(2)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "data").write_text("kept")
    (old / "data").symlink_to(tmp_path / "precious")
    clean.main(["--out", str(out)])
    assert not old.exists()
    assert (tmp_path / "precious" / "data").read_text() == "kept"
    make(3)
    (out / ".torchstone-removed").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="is a symbolic link, and nothing is removed through one"):
        clean.main(["--out", str(out)])
    assert len(kept(out)) == 2


def test_what_runs_share_counts_once_and_is_freed_with_its_last_name(make: Make, out: Path) -> None:
    old, newest = make(1), make(2)
    (old / "weights").write_bytes(bytes(1 << 16))
    os.link(old / "weights", newest / "weights")
    assert freed_bytes([old]) < 1 << 16 <= freed_bytes([old, newest])


def test_the_module_that_was_given_goes_with_the_last_run_that_needs_it(out: Path) -> None:
    examples = describe(Mlp(), torch.zeros(3, 4))
    folders = []
    for seed, model_seed in ((1, 1), (2, 2), (3, 3)):
        torch.manual_seed(model_seed)
        settings = replace(recipe(), seed=seed, signature=examples.signature)
        live = given(Mlp(), settings, examples.rows, out)
        for device in ("cpu", "cpu:other")[: 2 if seed == 2 else 1]:
            with open_run(live, device, out, Console(quiet=True)) as run:
                folders.append(run.folder)
            moment = len(folders)
            os.utime(run.files.recipe_record, (moment, moment))
            for file in Path(str(live.location.file)).parent.iterdir():
                os.utime(file, (moment, moment))
    before = {run.folder: run.given for run in stored_runs(out)}
    with open_run(live, "cpu", out, Console(quiet=True)) as run:
        set_link(run.folder, LATEST)
    shared = before[folders[1]]
    assert shared is not None
    assert shared == before[folders[2]]
    os.utime(folders[2] / "recipe.json", (9, 9))  # the newest, which needs what the second needs too
    clean.main(["--out", str(out)])
    assert kept(out) == {folders[2], folders[3]}
    assert {run.given for run in stored_runs(out)} == {shared, before[folders[3]]}
    assert not Path(str(before[folders[0]])).exists()


def test_a_folder_or_recipe_that_there_is_not_is_named(make: Make, out: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*out: name the one where runs are kept"):
        runs.main(["--out", str(out)])
    make(1)
    with pytest.raises(UserError, match="has no run of 'seed', it has runs of tiny"):
        clean.main(["seed", "--out", str(out)])
    assert runs.main(["tiny", "--out", str(out)]) == 0
