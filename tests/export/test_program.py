from __future__ import annotations

import contextlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from export.errors import RecordError, UserError
from export.program import capture, complete, flatten, load_exported, quiet
from export.signature import Signature, SizeRange, TensorSpec
from tests.models import SIGNATURES, Answer, make


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


class _Payload:
    """Runs when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (_touch, (str(self.target),))


def _touch(path: str) -> None:
    Path(path).touch()


def _with_payload(source: Path, target: Path, marker: Path, member: str) -> None:
    """A copy of an exported program in which one member is a live pickle, which its configuration says to unpickle."""
    buffer = io.BytesIO()
    torch.save(_Payload(marker), buffer)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for one in old.infolist():
            data = old.read(one)
            if one.filename.endswith(member):
                data = buffer.getvalue()
            if member.startswith("weights") and one.filename.endswith("_config.json"):
                data = data.replace(b'"use_pickle": false', b'"use_pickle": true')
            new.writestr(one.filename, data)


MEMBERS = ["sample_inputs/model.pt", "weights/weight_0"]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    with quiet():
        torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), tmp_path / "good.pt2")
    return tmp_path / "good.pt2"


@pytest.mark.parametrize("member", MEMBERS)
def test_a_live_pickle_in_a_program_is_refused_and_does_not_run(member: str, exported: Path, tmp_path: Path) -> None:
    load_exported(exported)
    marker = tmp_path / "ran"
    _with_payload(exported, tmp_path / "bad.pt2", marker, member)
    with pytest.raises(RecordError, match=r"does not load with weights_only=True"):
        load_exported(tmp_path / "bad.pt2")
    assert not marker.exists()


@pytest.mark.parametrize("member", MEMBERS)
def test_the_payload_is_live_where_nothing_checks(member: str, exported: Path, tmp_path: Path) -> None:
    """The twin of the test above: PyTorch's own loader runs it."""
    marker = tmp_path / "ran"
    _with_payload(exported, tmp_path / "bad.pt2", marker, member)
    with quiet(), contextlib.suppress(Exception):  # what the payload returns is no program
        torch.export.load(tmp_path / "bad.pt2")
    assert marker.exists()


@pytest.mark.parametrize("first_bytes", [b"\x80\x02", b"PK\x03\x04"])
def test_weights_that_look_like_a_pickle_are_weights(first_bytes: bytes, tmp_path: Path) -> None:
    """One in 65,536 tensors begins with the bytes of a pickle; MiniLM has one."""
    module = nn.Linear(4, 4)
    with torch.no_grad():
        module.weight.view(torch.uint8).flatten()[: len(first_bytes)] = torch.tensor(
            list(first_bytes), dtype=torch.uint8
        )
    with quiet():
        torch.export.save(torch.export.export(module, (torch.zeros(1, 4),)), tmp_path / "model.pt2")
    assert torch.equal(load_exported(tmp_path / "model.pt2").state_dict["weight"], module.weight)
