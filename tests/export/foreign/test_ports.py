"""A foreign file's tensors are matched by name; in order only where no name agrees; else both lists are shown."""

from __future__ import annotations

import pytest

from export.errors import UserError
from export.foreign.ports import Port, match_inputs, match_outputs, matched_facts, renames
from export.signature import Signature, SizeRange, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec("ids", "int64", ("batch", "length")), TensorSpec("cache.0.key", "float32", ("batch", 4))),
    output_names=("logits", "state"),
    outputs=(TensorSpec("logits", "float32", ("batch", 3)), TensorSpec("state", "float32", ("batch", 4))),
    ranges={"batch": SizeRange(max=8), "length": SizeRange(max=16)},
)
IDS = Port(name="ids", dtype="int64", shape=(None, None))
KEY = Port(name="cache_0_key", dtype="float32", shape=(None, 4))


def test_names_decide_whatever_the_order_and_points_may_be_underscores() -> None:
    matched = match_inputs(SIGNATURE, [KEY, IDS])
    assert (matched.ports, matched.by_order) == ((IDS, KEY), False)
    outputs = match_outputs(SIGNATURE, [Port(name="state"), Port(name="extra"), Port(name="logits")])
    assert [port.name for port in outputs.ports] == ["logits", "state"]
    names = renames(SIGNATURE, matched, outputs)
    assert names == {"cache_0_key": "cache.0.key"}
    assert matched_facts(matched, outputs, names) == {"renamed": "cache_0_key to cache.0.key"}


def test_order_decides_where_no_name_agrees_and_the_record_says_so() -> None:
    inputs = match_inputs(SIGNATURE, [Port(name="input.1"), Port(name="input.3")])
    outputs = match_outputs(SIGNATURE, [Port(name="12"), Port(name="13")])
    assert renames(SIGNATURE, inputs, outputs)["13"] == "state"
    assert matched_facts(inputs, outputs) == {"matched_by_order": "inputs and outputs"}


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        ([IDS, Port(name="mask")], r"the file's inputs are ids, mask, the model's ids, cache\.0\.key: export it with"),
        ([IDS], r"the file's inputs are ids, the model's ids, cache\.0\.key"),
        ([IDS, KEY, Port(name="mask")], "the file's inputs are ids, cache_0_key, mask"),
        ([Port(name="a")], "the file's inputs are a, the model's"),
        (
            [Port(name="ids", dtype="int32"), KEY],
            "ids is int64 in the model and int32 in the file: export it with the model's dtype",
        ),
        ([Port(name="a", dtype="int32"), Port(name="b")], r"and int32 in the file \(there a\)"),
        ([Port(name="ids", shape=(None,)), KEY], "ids has 2 dimensions in the model and 1 in the file"),
        (
            [Port(name="ids", shape=(1, None)), KEY],
            r"the file fixes dimension 0 of ids at 1, the model takes 'batch' in \[1, 8\]",
        ),
        ([IDS, Port(name="cache_0_key", shape=(None, 5))], r"dimension 1 of cache\.0\.key is 4 in the model and 5 in"),
    ],
)
def test_what_does_not_fit_is_one_sentence(ports: list[Port], message: str) -> None:
    with pytest.raises(UserError, match=message):
        match_inputs(SIGNATURE, ports)


def test_an_output_that_the_file_lacks_is_named() -> None:
    with pytest.raises(UserError, match="the file's outputs are logits, the model's logits, state"):
        match_outputs(SIGNATURE, [Port(name="logits")])
