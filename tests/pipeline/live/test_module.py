"""A live module on disk: the same in another process, under one digest, and never loaded once it was altered."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from torch import nn

from export.errors import RecordError, UserError
from pipeline.live.examples import describe
from pipeline.live.given import given, read_recipe
from pipeline.live.module import read_module, unwrapped, write_module, written
from pipeline.recipe import Recipe
from tests.conftest import environ
from tests.models import Mlp


def test_a_class_that_cannot_be_imported_comes_back_with_what_it_shares(tmp_path: Path) -> None:
    factor = 3.0

    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.mix = nn.GRU(4, 4, batch_first=True)
            self.register_buffer("shift", torch.arange(4.0), persistent=False)
            self.steps = [torch.ones(4), torch.ones(4, dtype=torch.complex64)]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.mix(self.second(self.first(x)) * factor + self.shift)[0] + self.steps[0]
            return answer

    module = Local()
    write_module(tmp_path, written(module))
    again = read_module(tmp_path)
    x = torch.randn(2, 5, 4)
    assert torch.equal(again(x), module(x))
    assert again.second.weight is again.first.weight  # type: ignore[union-attr]
    assert again.first.weight.requires_grad  # type: ignore[union-attr]


_SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import torch
from torch import nn
from pipeline.live.module import written

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)
    def forward(self, x):
        return self.layer(x) * {factor}

print(written(Own()).sha256)
"""


def test_the_digest_is_the_modules_not_the_processes(tmp_path: Path) -> None:
    """Classes of a script are numbered at random each time that they are written."""
    script = tmp_path / "script.py"

    def sha256(factor: float, seed: str) -> str:
        script.write_text(_SCRIPT.format(root=str(Path(__file__).parents[3]), factor=factor))
        command = [sys.executable, str(script)]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env=environ(PYTHONHASHSEED=seed)
        ).stdout.strip()

    first = sha256(2.0, "1")
    assert len(first) == 64
    assert sha256(2.0, "2") == first
    assert sha256(2.5, "1") != first


def test_what_cannot_be_sent_is_named() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    module[1].__dict__["lock"] = threading.Lock()
    with pytest.raises(UserError, match=r"cannot be sent to another process: 1\.lock cannot be written \(TypeError"):
        written(module)


def test_what_compiles_or_spreads_a_module_is_taken_off() -> None:
    inner = nn.Linear(2, 2)
    compiled: Any = torch.compile(inner)
    assert unwrapped(nn.DataParallel(compiled)) is inner


class Payload:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.mark.write_text, ("ran",)


def test_an_altered_module_is_refused_before_anything_of_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Mlp()
    described = describe(model, torch.zeros(2, 4))
    settings = Recipe(name="mine", model=nn.Module, signature=described.signature, backends=("eager",), required=())
    located = given(model, settings, described.rows, tmp_path)
    assert torch.equal(located.recipe.model().eval()(torch.ones(2, 4)), model.eval()(torch.ones(2, 4)))
    assert located.source_sha256.keys() >= {"tests.models"}
    assert located.location.file is not None
    folder, mark = Path(located.location.file).parent, tmp_path / "mark"
    (folder / "module.pickle").write_bytes(cloudpickle.dumps(Payload(mark)))
    with pytest.raises(RecordError, match=r"module.pickle is not the file that was recorded"):
        read_recipe(folder)
    assert not mark.exists()
    monkeypatch.setattr("pipeline.live.given.verify_files", lambda *_: None)
    with pytest.raises(AssertionError):
        read_recipe(folder).model()
    assert mark.exists()
