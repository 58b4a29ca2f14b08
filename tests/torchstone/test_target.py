"""What ``torchstone check`` is given: a model by name, its weights, example calls, dimensions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from export.errors import UserError
from export.signature import SizeRange
from torchstone.commands.dimensions import parse_dynamic, parse_ranges
from torchstone.commands.inputs import read_calls
from torchstone.commands.target import build_model, load_weights

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

class Tied(Net):
    def __init__(self):
        super().__init__()
        self.second.weight = self.first.weight

ready = Net()
number = 3

def needy(width):
    return Net()

def leaves():
    raise SystemExit(0)
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the module ``users_nets``, which is the current one."""
    (tmp_path / "users_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("users_nets", None)
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("target", ["users_nets:Net", "users_nets:ready", "users_nets.py:Net"])
def test_a_class_a_function_and_a_module_are_models_and_the_seed_governs_what_they_draw(
    target: str, nets: Path
) -> None:
    first = build_model(target, seed=1)
    sys.modules.pop("users_nets")
    again = build_model(target, seed=1)
    sys.modules.pop("users_nets")
    other = build_model(target, seed=2)
    assert torch.equal(first.state_dict()["first.weight"], again.state_dict()["first.weight"])
    assert not torch.equal(first.state_dict()["first.weight"], other.state_dict()["first.weight"])


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (
            "seed",
            r"TARGET must be package.module:callable .* got 'seed' \(a recipe is for `\S+ -m pipeline\.all seed`\)",
        ),
        ("users_nets:redy", "has no 'redy': did you mean 'ready'"),
        ("users_nets:number", "must be a torch.nn.Module or return one, got int"),
        ("users_nets:needy", "raised TypeError: .* It is called without arguments"),
        ("users_nets:leaves", "raised SystemExit"),
        (
            "users_netz:Net",
            r"users_netz cannot be imported: ModuleNotFoundError: .* \(looked for in /.* and among what is installed",
        ),
        ("nowhere.py:Net", r"there is no file nowhere.py: TARGET must be package\.module:callable"),
        ("bench:Net", "bench.py bears the name of a package of Torchstone: rename it"),
        ("bench.py:Net", "bench.py bears the name of a package of Torchstone: rename it"),
        ("shadowed:Net", r"No module named 'bench.own' \(.*bench.py bears the name of a package of Torchstone"),
    ],
)
def test_a_target_that_is_no_model_is_said_in_a_sentence(target: str, reason: str, nets: Path) -> None:
    (nets / "bench.py").write_text("raise RuntimeError('this ran')")
    (nets / "shadowed.py").write_text("from bench.own import Net")
    with pytest.raises(UserError, match=reason):
        build_model(target, seed=0)


def test_weights_are_loaded_by_name_and_those_that_are_tied_need_one_name(nets: Path) -> None:
    tied = build_model("users_nets:Tied", seed=1)
    state = {name: torch.full_like(tensor, 7) for name, tensor in tied.state_dict().items() if name != "second.weight"}
    save_file(state, nets / "w.safetensors")
    load_weights(tied, nets / "w.safetensors")
    assert all(bool((tensor == 7).all()) for tensor in tied.state_dict().values())
    with pytest.raises(UserError, match=r"w.safetensors does not hold the weights of Net: second.weight is missing$"):
        load_weights(build_model("users_nets:Net", seed=1), nets / "w.safetensors")


def test_weights_of_another_model_are_named(nets: Path) -> None:
    net = build_model("users_nets:Net", seed=1)
    save_file({"first.weight": torch.zeros(2, 4), "head.bias": torch.zeros(2)}, nets / "w.safetensors")
    with pytest.raises(UserError) as caught:
        load_weights(net, nets / "w.safetensors")
    assert str(caught.value).partition(": ")[2] == (
        "first.bias is missing, and 2 more; head.bias is not the model's; "
        "first.weight has the shape [2, 4], the model's [4, 4]"
    )
    (nets / "w.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"cannot be read as safetensors: .* writes such a file"):
        load_weights(net, nets / "w.safetensors")


def test_each_kind_of_file_holds_calls(tmp_path: Path) -> None:
    x, ids = np.ones((2, 3), np.float32), np.arange(2)
    nested: Any = {"x": x, "cache.0.key": x, "cache.1.key": x, "state.h": ids}
    np.savez(tmp_path / "names.npz", **nested)
    np.savez(tmp_path / "order.npz", x, ids)
    np.save(tmp_path / "lone.npy", x)
    save_file({"x": torch.ones(2, 3, dtype=torch.bfloat16)}, tmp_path / "half.safetensors")
    torch.save([(torch.ones(2),), {"x": torch.ones(3)}], tmp_path / "calls.pt")
    (named,) = read_calls(tmp_path / "names.npz")
    assert _shapes(named) == {"x": (2, 3), "cache": ({"key": (2, 3)}, {"key": (2, 3)}), "state": {"h": (2,)}}
    assert _shapes(read_calls(tmp_path / "order.npz")) == [((2, 3), (2,))]
    assert _shapes(read_calls(tmp_path / "lone.npy")) == [(2, 3)]
    assert read_calls(tmp_path / "half.safetensors")[0]["x"].dtype == torch.bfloat16
    assert _shapes(read_calls(tmp_path / "calls.pt")) == [((2,),), {"x": (3,)}]


def _shapes(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    if isinstance(value, dict):
        return {name: _shapes(item) for name, item in value.items()}
    return type(value)(map(_shapes, value))


class Runs:
    """Whoever unpickles it has been attacked."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("attacked"),)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.npz", "there is no file .*none.npz: --inputs takes example calls"),
        ("call.json", r"--inputs must be files that end with .npz, .npy, .safetensors, .pt, got .*call.json"),
        ("empty.npz", "empty.npz holds no tensors"),
        ("torn.npz", r"torn.npz cannot be read: .*It must hold plain arrays"),
        ("torn.safetensors", "torn.safetensors cannot be read"),
        ("objects.npy", "objects.npy cannot be read: Object arrays cannot be loaded"),
        ("objects.pt", "objects.pt cannot be read: Weights only load failed"),
        ("words.npz", "x must hold numbers or booleans, got the dtype <U2"),
        ("both.npz", "'x' is a tensor, and x.y a part of it"),
    ],
)
def test_a_file_that_holds_no_calls_is_said_in_a_sentence_and_never_unpickled(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for torn in ("torn.npz", "torn.safetensors"):
        Path(torn).write_bytes(b"PK\x03\x04 and no more")
    np.savez("empty.npz")
    np.savez("words.npz", x=np.array(["no"]))
    both: Any = {"x": np.ones(2), "x.y": np.ones(2)}
    np.savez("both.npz", **both)
    np.save("objects.npy", np.array([Runs()], dtype=object), allow_pickle=True)
    torch.save(Runs(), "objects.pt")
    Path("call.json").write_text("{}")
    with pytest.raises(UserError, match=reason):
        read_calls(Path(name))
    assert not Path("attacked").exists()


def test_dimensions_and_ranges_are_read_off_flags() -> None:
    assert parse_dynamic([]) is None
    assert parse_dynamic(["ids:batch,length", "image:batch,_,height"]) == {
        "ids": ("batch", "length"), "image": ("batch", None, "height"),
    }  # fmt: skip
    assert parse_ranges(["length=1:512", "height=32:640:32"]) == {
        "length": SizeRange(min=1, max=512), "height": SizeRange(min=32, max=640, multiple=32),
    }  # fmt: skip


@pytest.mark.parametrize("text", ["ids", "ids:", ":batch", "ids:0", "ids:batch,,length"])
def test_dimensions_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--dynamic must be INPUT:DIMENSION,DIMENSION, such as ids:batch,length"):
        parse_dynamic([text])


@pytest.mark.parametrize("text", ["length", "length=1", "length=1:", "length=a:b", "=1:2", "length=-1:2", "l=1:2:3:4"])
def test_ranges_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--range must be NAME=MIN:MAX or NAME=MIN:MAX:MULTIPLE"):
        parse_ranges([text])


def test_a_range_that_no_size_lies_in_and_an_input_twice_are_refused() -> None:
    with pytest.raises(UserError, match="min=5 max=2"):
        parse_ranges(["length=5:2"])
    with pytest.raises(UserError, match="--dynamic names 'x' twice"):
        parse_dynamic(["x:batch", "x:batch"])
