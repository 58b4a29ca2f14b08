"""What ONNX Runtime leaves to the CPU when it runs on a GPU: sizes, which is right, and values, which is not.

The placements are those that a GPU's session reported (docs/measured/gpu.md), on the same graphs.
"""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.backend import LoadOptions
from export.device import Device
from export.errors import UserError
from export.runtimes.onnxruntime import OnnxRuntimeOptions, OnnxSession, open_session
from export.runtimes.placement import Placement, placement
from tests.conftest import Builder
from tests.gpu.sessions import exported

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def session(graph: Any, on_cpu: set[str]) -> Any:
    """A session that assigned the nodes of these operators or names to the CPU, the others to CUDA."""
    nodes = [SimpleNamespace(name=node.name, op_type=node.op_type) for node in graph.node]
    by_provider: dict[str, list[Any]] = {CPU: [], CUDA: []}
    for node in nodes:
        by_provider[CPU if on_cpu & {node.name, node.op_type} else CUDA].append(node)
    parts = [SimpleNamespace(ep_name=name, get_nodes=lambda held=held: held) for name, held in by_provider.items()]
    return SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)


@pytest.fixture(scope="module", params=["dynamo", "legacy"])
def chain(request: pytest.FixtureRequest) -> Any:
    """A model whose reshapes compute sizes from sizes."""
    return onnx.load_from_string(exported("shape chain", request.param)).graph


def test_arithmetic_on_sizes_may_run_on_the_cpu(chain: Any) -> None:
    placed = placement(
        session(chain, {"Cast", "Concat", "Gather", "Squeeze", "Unsqueeze"} & kinds(chain)), CUDA, [chain]
    )
    assert placed.fallback(CUDA) is None
    assert len(placed.sizes) >= 3
    assert "Concat" in placed.evidence()["sizes_on_cpu"]
    assert int(placed.evidence()[f"nodes_on_{CPU}"]) == len(placed.sizes)


@pytest.mark.parametrize("kind", ["Gemm", "Tanh", "Mul"])
def test_arithmetic_on_values_may_not(chain: Any, kind: str) -> None:
    nodes = [node.name for node in chain.node if node.op_type == kind]
    placed = placement(session(chain, {nodes[-1], "Concat"}), CUDA, [chain])
    assert placed.strays == ((nodes[-1], kind),)
    assert f"1 nodes ran elsewhere than on {CUDA}, and not on sizes alone: {nodes[-1]} ({kind})" == placed.fallback(
        CUDA
    )


def test_the_cpus_own_session_has_no_strays(chain: Any) -> None:
    placed = placement(session(chain, kinds(chain)), CPU, [chain])
    assert placed == Placement(nodes_count={CPU: len(chain.node)}, sizes=(), strays=())


def test_a_node_that_no_graph_holds_is_a_stray(chain: Any) -> None:
    fused = onnx.GraphProto()
    fused.CopyFrom(chain)
    fused.node[0].name = "made by the runtime"
    placed = placement(session(fused, {"made by the runtime"}), CUDA, [chain])
    assert [name for name, _ in placed.strays] == ["made by the runtime"]
    assert placement(session(fused, {"made by the runtime"}), CUDA, [fused, chain]).strays == ()


def graph(*nodes: Any, constants: tuple[Any, ...] = ()) -> Any:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_graph(list(nodes), "g", [x], [y], initializer=list(constants))


def test_a_copy_of_values_between_providers_is_a_stray_and_one_of_sizes_is_not() -> None:
    moved = graph(
        helper.make_node("Shape", ["x"], ["size"], name="shape"),
        helper.make_node("MemcpyFromHost", ["size"], ["size_there"], name="up"),
        helper.make_node("MemcpyToHost", ["x"], ["x_here"], name="down"),
        helper.make_node("Reshape", ["x_here", "size"], ["y"], name="reshape"),
    )
    placed = placement(session(moved, {"Shape", "Reshape"}), CUDA, [moved])
    assert placed.strays == (("reshape", "Reshape"), ("down", "MemcpyToHost"))


@pytest.mark.parametrize(("dtype", "dims", "on_sizes"), [
    (TensorProto.INT64, [4], True), (TensorProto.FLOAT, [1], True), (TensorProto.FLOAT, [4], False),
])  # fmt: skip
def test_a_weight_is_no_size(dtype: int, dims: list[int], on_sizes: bool) -> None:
    constant = helper.make_tensor("c", dtype, dims, [2] * dims[0])
    weighed = graph(helper.make_node("Add", ["c", "c"], ["y"], name="add"), constants=(constant,))
    placed = placement(session(weighed, {"Add"}), CUDA, [weighed])
    assert bool(placed.sizes) is on_sizes


def test_the_weights_of_an_int8_model_are_no_sizes_though_they_are_integers() -> None:
    constants = (helper.make_tensor("w", TensorProto.INT32, [4], [1] * 4), helper.make_tensor("s", 1, [], [0.5]))
    unpacked = graph(helper.make_node("DequantizeLinear", ["w", "s"], ["y"], name="d"), constants=constants)
    assert placement(session(unpacked, {"d"}), CUDA, [unpacked]).strays == (("d", "DequantizeLinear"),)


def test_a_branch_knows_the_sizes_around_it_and_is_none_itself() -> None:
    body = helper.make_graph(
        [helper.make_node("Mul", ["size", "size"], ["out"], name="square")], "then", [],
        [helper.make_tensor_value_info("out", TensorProto.INT64, None)],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["out2"], name="relu")], "else", [],
        [helper.make_tensor_value_info("out2", TensorProto.FLOAT, None)],
    )  # fmt: skip
    branched = graph(
        helper.make_node("Shape", ["x"], ["size"], name="shape"),
        helper.make_node("If", ["size"], ["y"], name="if", then_branch=body, else_branch=other),
    )
    assigned = session(branched, set())
    parts = assigned.get_provider_graph_assignment_info()
    inner = [SimpleNamespace(name="square", op_type="Mul"), SimpleNamespace(name="relu", op_type="Relu")]
    parts.append(SimpleNamespace(ep_name=CPU, get_nodes=lambda: [*inner, SimpleNamespace(name="if", op_type="If")]))
    placed = placement(assigned, CUDA, [branched])
    assert (placed.sizes, placed.strays) == ((("square", "Mul"),), (("relu", "Relu"), ("if", "If")))


def test_a_provider_that_does_not_open_is_an_error_and_no_silent_run_on_the_cpu() -> None:
    """The real runtime: asked for a GPU that is not there, it warns and goes on with the CPU."""
    model = exported("mlp", "dynamo")
    with pytest.raises(UserError, match=rf"ONNX Runtime did not open {CUDA} for cuda:0: \S+"):
        open_session(model, LoadOptions(device="cuda:0"), OnnxRuntimeOptions())
    assert open_session(model, LoadOptions(), OnnxRuntimeOptions()).get_providers() == [CPU]


@pytest.mark.parametrize(("cuda_graph", "at_once"), [(True, 1), (False, 2)])
def test_callers_of_a_session_that_captures_take_turns(
    cuda_graph: bool, at_once: int, build_model: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one thread launches while another captures would become part of the graph."""
    folder, artifact = build_model("Mlp", "onnx")
    monkeypatch.setattr(Device, "check_captures", lambda self: None)  # as on a GPU
    runtime = OnnxRuntimeOptions(cuda_graph=cuda_graph)
    session = OnnxSession(folder / "model.onnx", artifact.signature, LoadOptions(), runtime)
    inside, most = [], []

    def run(outputs: Any, fed: Any, options: Any) -> list[Any]:
        inside.append(1)
        time.sleep(0.05)
        most.append(len(inside))
        inside.pop()
        return [np.zeros((3, 3), np.float32)]

    monkeypatch.setattr(session, "_session", SimpleNamespace(run=run))
    threads = [threading.Thread(target=session, args=([np.zeros((3, 4), np.float32)],)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == at_once


def kinds(graph: Any) -> set[str]:
    return {node.op_type for node in graph.node}
