"""A program that carries code is refused and none of it runs, by every way that torch alone would let it run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from export import archive
from export.errors import RecordError
from export.program import load_exported, quiet
from export.program_json import check_json
from tests.archives.forgeries import FORGERIES, small_program
from tests.archives.models import REAL
from tests.archives.pack import pack, parts_of
from tests.conftest import ROOT, environ
from tests.torches import since

_SINCE = {
    "an object of some class": since("2.13", "does not load such objects"),
    "vmap, and infinity": since("2.13", "cannot save a program with vmap"),
}


def _known_since(name: str) -> Any:
    return pytest.param(name, marks=[_SINCE[name]] if name in _SINCE else [])


@pytest.fixture(scope="module")
def program() -> bytes:
    return small_program()


def _forge(name: str, program: bytes, folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.pt2").write_bytes(FORGERIES[name].of(program, folder / "ran"))
    return folder / "model.pt2"


@pytest.fixture(scope="module")
def unguarded(program: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """By forgery: when torch alone runs its code."""
    base = tmp_path_factory.mktemp("unguarded")
    files = {name: _forge(name, program, base / str(number)) for number, name in enumerate(FORGERIES)}
    command = [sys.executable, "-m", "tests.archives.unguarded", *(str(file.parent) for file in files.values())]
    done = subprocess.run(command, cwd=ROOT, env=environ(), capture_output=True, text=True, check=True)
    runs = json.loads(done.stdout)
    return {name: runs[str(file.parent)] for name, file in files.items()}


@pytest.mark.parametrize("name", FORGERIES)
def test_code_in_a_program_is_refused_and_does_not_run(name: str, program: bytes, tmp_path: Path) -> None:
    forged = _forge(name, program, tmp_path / "forged")
    with pytest.raises(RecordError, match=r"model\.pt2.* refused"):
        load_exported(forged)
    assert not (tmp_path / "forged" / "ran").exists()


@pytest.mark.parametrize("name", [_known_since(name) for name, forgery in FORGERIES.items() if forgery.runs])
def test_torch_alone_runs_it(name: str, unguarded: dict[str, str | None]) -> None:
    """The twin of the test above."""
    assert unguarded[name] == FORGERIES[name].runs


def test_what_is_loaded_is_what_was_looked_at(program: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is swapped for one with code between the look and the load."""
    forged = _forge("the size of an input", program, tmp_path / "forged").read_bytes()
    (tmp_path / "model.pt2").write_bytes(program)
    load = torch.export.load

    def after_a_swap(file: object) -> object:
        (tmp_path / "model.pt2").write_bytes(forged)
        return load(file)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.export, "load", after_a_swap)
    load_exported(tmp_path / "model.pt2")
    assert not (tmp_path / "forged" / "ran").exists()
    with quiet(), pytest.raises(AttributeError):  # the twin: what torch finds at that place by now
        load(tmp_path / "model.pt2")
    assert (tmp_path / "forged" / "ran").exists()


@pytest.mark.parametrize("damage", ["empty", "cut off", "no directory"])
def test_a_damaged_program_is_named(damage: str, program: bytes, tmp_path: Path) -> None:
    damaged = {"empty": b"", "cut off": program[:-7], "no directory": program.replace(b"PK\1\2", b"PK\1\3")}
    (tmp_path / "model.pt2").write_bytes(damaged[damage])
    with pytest.raises(RecordError, match=r"model\.pt2 is not a program as torch saves it, refused"):
        load_exported(tmp_path / "model.pt2")


@pytest.mark.parametrize("member", ["models/model.json", "byteorder", "data/constants/model_constants_config.json"])
def test_a_member_that_lacks_is_named(member: str, program: bytes, tmp_path: Path) -> None:
    parts = [part for part in parts_of(program) if part.name.partition(b"/")[2] != member.encode()]
    (tmp_path / "model.pt2").write_bytes(pack(parts))
    with pytest.raises(RecordError, match=re.escape(f"lacks the member {member!r}")):
        load_exported(tmp_path / "model.pt2")


SIZE = "L['x'].size()[0]"


@pytest.mark.parametrize(
    "expression",
    [
        f"(2*{SIZE}) != L['y'].size()[1]",
        f"max(1, math.floor(torch.sym_float({SIZE}) * 0.5)) >= 2 and not {SIZE} % 8 == 0",
        f"torch._sym_sqrt({SIZE}) <= math.inf",
        "L['args'][0]['key'].stride()[1] == -1",
        "Max(Integer(1), FloorDiv(Symbol('s77', positive=True, integer=True), Integer(2)))",
        "FloatPow(ToFloat(Symbol('zuf0')), Float('0.5', precision=53))",
        "And(StrictLessThan(Symbol('u0', integer=True), Integer(100)), true)",
    ],
)
def test_sizes_may_be_computed(expression: str) -> None:
    check_json(expression, ("expr_str",))
    check_json([expression], ("guards_code",))


@pytest.mark.parametrize(
    "expression",
    [
        "().__class__", "L.__class__", "(lambda: 1)()", "[x for x in L]", "open('a')", "math.__loader__", "torch.os",
        "torch.load('a')", "torch.sym_int.__globals__", "L['x'].numpy()", "f'{1}'", "1 # 2", "1\n", "sympify('1')",
        "lambdify('a', 'b')", "Symbol('__import__(1)')", "Symbol('a.b')", "'a'.format(1)", "(x := 1)", "L[1:2]", "*L",
        "{1: 2}", "b'x(1)'", "Max(...)", "await L", "exec", "'\\x28'", "S('1')", "\uff25", "",
    ],
)  # fmt: skip
def test_what_is_more_than_a_size_is_refused(expression: str) -> None:
    for key in ("expr_str", "guards_code"):
        with pytest.raises((ValueError, SyntaxError)):
            check_json(expression, (key,))


@pytest.mark.parametrize(
    "operator",
    [
        "torch.os.mkdir", "torch.ops.load_library", "torch.ops.load_library.__call__", "torch.ops.aten.nobody.default",
        "torch.ops.load_library.__self__.load_library", "torch._ops.ops.aten.add.default", "_operator.call",
        "torch.ops.aten.save.default", "torch.ops.aten.add.__class__", "torch.ops.aten.from_file.out", "",
    ],
)  # fmt: skip
def test_an_argument_may_be_an_operator_on_tensors_alone(operator: str) -> None:
    check_json("torch.ops.aten.add.Tensor", ("as_operator",))
    with pytest.raises(ValueError, match="is not an operator"):
        check_json(operator, ("as_operator",))


# --- programs of torch's own ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [_known_since(name) for name in REAL])
def test_what_torch_saves_loads_as_it_was(name: str, tmp_path: Path) -> None:
    module, inputs, shapes = REAL[name]
    with quiet():
        saved = torch.export.export(module.eval(), inputs, dynamic_shapes=shapes)
        torch.export.save(saved, tmp_path / "model.pt2")
        loaded = load_exported(tmp_path / "model.pt2")
        torch.testing.assert_close(loaded.module()(*inputs), saved.module()(*inputs), rtol=0, atol=0, equal_nan=True)
    assert loaded.state_dict.keys() == saved.state_dict.keys()
    assert all(torch.equal(tensor, saved.state_dict[key]) for key, tensor in loaded.state_dict.items())


def test_files_beside_a_program_are_not_its_own(tmp_path: Path) -> None:
    with quiet():
        program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))
        torch.export.save(program, tmp_path / "model.pt2", extra_files={"notes.txt": "notes"})
    with pytest.raises(RecordError, match=r"has the member 'extra/notes\.txt', which is none of a program's"):
        archive.checked_program((tmp_path / "model.pt2").read_bytes(), tmp_path / "model.pt2")
