from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from export.completion import complete
from export.errors import UserError
from export.flat import flatten
from export.program import capture, load_exported
from export.signature import Signature, SizeRange, TensorSpec
from tests.conftest import environ
from tests.models import SIGNATURES, Answer, make
from tests.torches import since


def test_nested_results_are_flattened_in_their_own_order_under_their_own_names() -> None:
    a, b, c = (torch.tensor(float(i)) for i in range(3))
    assert list(flatten(a)) == ["output"]
    assert list(flatten((a, b))) == ["output_0", "output_1"]
    assert list(flatten({"logits": a, "boxes": [b, None, c]})) == ["logits", "boxes.0", "boxes.2"]
    assert list(flatten(Answer(logits=a, extras={"pair": (b, c)}))) == ["logits", "extras.pair.0", "extras.pair.1"]


def test_a_result_that_is_no_tensor_is_refused_with_its_place() -> None:
    with pytest.raises(UserError, match=r"got str at extras\.name"):
        flatten({"extras": {"name": "x"}})


def test_outputs_are_found_with_their_symbols() -> None:
    signature = complete(make("Nested"), SIGNATURES["Nested"], seed=0)
    assert signature.outputs == (
        TensorSpec("logits", "float32", ("batch", 4)),
        TensorSpec("extras.pair.0", "float32", ("batch", "length", 6)),
        TensorSpec("extras.pair.1", "int64", ("batch",)),
    )


def test_a_traced_program_takes_every_size_in_range() -> None:
    signature = complete(make("Nested"), SIGNATURES["Nested"], seed=0)
    module = capture(make("Nested"), signature, seed=0).exported.module()
    for sizes in ({"batch": 1, "length": 2}, {"batch": 300, "length": 40}):
        outputs = module(*[torch.from_numpy(array) for array in signature.example(sizes, 0).values()])
        assert outputs[1].shape == (sizes["batch"], sizes["length"], 6)


class Fours(nn.Module):
    """Folds four columns into one: only multiples of four fit."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], -1, 4).sum(2)


@pytest.mark.parametrize("forgets", [True, False])
def test_a_size_declared_as_a_multiple_goes_through_pytorchs_own_passes(
    forgets: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that was saved and loaded; the twin shows what torch makes of it alone."""
    signature = Signature(
        inputs=(TensorSpec("x", "float32", ("batch", "width")),),
        ranges={"batch": SizeRange(max=8), "width": SizeRange(min=8, max=64, multiple=4)},
    )
    exported = capture(Fours(), complete(Fours(), signature, seed=0), seed=0).exported
    torch.export.save(exported, tmp_path / "model.pt2")
    if not forgets:
        monkeypatch.setattr("export.program._forget_derived_sizes", lambda exported: None)
        monkeypatch.setattr("export.program._kept", {})
    loaded = load_exported(tmp_path / "model.pt2")
    if forgets:
        x = torch.randn(3, 12)
        torch.testing.assert_close(loaded.run_decompositions().module()(x)[0], Fours()(x))
    else:
        with pytest.raises(AssertionError, match=r"expected sympy\.Symbol"):
            loaded.run_decompositions()


def test_a_dimension_that_the_model_fixes_is_named() -> None:
    signature = complete(make("Frozen"), SIGNATURES["Frozen"], seed=0)
    with pytest.raises(UserError, match="'width'"):
        capture(make("Frozen"), signature, seed=0)


def test_a_model_that_does_not_accept_its_example_is_named_with_the_shapes() -> None:
    signature = Signature(inputs=(TensorSpec("x", "float32", ("batch", 5)),), ranges={"batch": SizeRange()})
    with pytest.raises(UserError, match=r"(?s)does not accept its own example input \(x: float32\[3, 5\]\).*shapes"):
        complete(make("Mlp"), signature, seed=0)


def test_output_names_must_fit_the_result() -> None:
    with pytest.raises(UserError, match="must name the 3 tensors"):
        complete(make("Nested"), replace(SIGNATURES["Nested"], output_names=("one",)), seed=0)


def test_capturing_leaves_the_users_module_as_it_was() -> None:
    module = make("ConvNorm").train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    signature = complete(module, SIGNATURES["ConvNorm"], seed=0)
    capture(module, signature, seed=0)
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_a_process_that_reads_no_program_does_not_pay_for_its_reader() -> None:
    """SymPy and torch's archives take a second to import, of every child."""
    code = "import sys, export.program; print('sympy' in sys.modules, 'torch.export.pt2_archive' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environ(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


class Residual(torch.nn.Module):
    """Halved twice, then once more beside a pooling that rounds up, as residual networks are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.max_pool2d(self.conv(x), 3, 2, 1)
        half = torch.nn.functional.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
        mean: torch.Tensor = (self.conv(x) + half).mean((2, 3))
        return mean


@since("2.13", "breaks off on every road")
def test_where_torch_breaks_off_before_it_names_a_size_the_later_roads_are_taken_too() -> None:
    images = TensorSpec("x", "float32", (1, 1, "side", 64))
    signature = Signature(inputs=(images,), ranges={"side": SizeRange(min=14, max=18)})
    program = capture(Residual(), complete(Residual(), signature, seed=0), seed=0)
    assert "Cannot create Dim with inconsistent" in program.facts["not_by_torch.export"]
    assert program.facts["road"] == "torch.export with derived sizes"


def raise_runtime_error(*_: object) -> None:
    raise RuntimeError("no other road works")


def test_guards_that_refuse_a_size_which_the_model_takes_lead_to_the_next_road(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch takes a batch of 1 for special, though the program computes it right."""
    ids = TensorSpec("input", "int64", ("batch", "items"), high=9)
    signature = Signature(inputs=(ids,), ranges={"batch": SizeRange(max=8), "items": SizeRange(min=2, max=8)})
    bag = torch.nn.EmbeddingBag(10, 4)
    complete_signature = complete(bag, signature, seed=0)
    program = capture(bag, complete_signature, seed=0)
    assert program.facts["road"] == "torch.export oblivious to sizes of 1"
    single = torch.tensor([[1, 2, 3]])
    assert torch.allclose(program.exported.module()(single)[0], bag(single))
    with monkeypatch.context() as without:
        without.setattr("export.capture_roads.sweep", raise_runtime_error)  # none of the later roads works
        plain = capture(bag, complete_signature, seed=0)
    assert plain.facts["road"] == "torch.export"
    assert "does not take batch=1" in plain.facts["not_by_torch.export"]
    monkeypatch.setattr("export.capture_roads.ask_guards", lambda exported, capture: None)
    unasked = capture(bag, complete_signature, seed=0)
    assert unasked.facts["road"] == "torch.export"
    with pytest.raises(AssertionError, match="Guard failed"):
        unasked.exported.module()(single)


def test_a_program_that_was_read_is_nobodys_but_a_later_readers_own(tmp_path: Path) -> None:
    """What one reader does to its program, its weights among them, no other sees, though the file is read once."""
    signature = complete(make("Mlp"), SIGNATURES["Mlp"], seed=0)
    torch.export.save(capture(make("Mlp"), signature, seed=0).exported, tmp_path / "model.pt2")
    first, second = load_exported(tmp_path / "model.pt2"), load_exported(tmp_path / "model.pt2")
    first.module().double()
    for node in [*first.graph.nodes]:
        node.meta.clear()
    for other in (second, load_exported(tmp_path / "model.pt2")):
        assert {tensor.dtype for tensor in other.state_dict.values()} == {torch.float32}
        assert any("val" in node.meta for node in other.graph.nodes)


def test_a_file_that_was_altered_is_read_again(tmp_path: Path) -> None:
    signature = complete(make("Mlp"), SIGNATURES["Mlp"], seed=0)
    exported = capture(make("Mlp"), signature, seed=0).exported
    torch.export.save(exported, tmp_path / "model.pt2")
    load_exported(tmp_path / "model.pt2")
    name = next(iter(exported.state_dict))
    with torch.no_grad():
        exported.state_dict[name].add_(1)
    torch.export.save(exported, tmp_path / "model.pt2")
    torch.testing.assert_close(load_exported(tmp_path / "model.pt2").state_dict[name], exported.state_dict[name])
