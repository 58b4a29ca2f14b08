"""The forms in which Triton and MLflow serve a bundle, each held against somebody else's check of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.record import read
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.bundle import releases
from pipeline.bundle.forms.triton import aoti_refuses, write_aoti_repository, write_onnx_repository
from pipeline.bundle.record import Bundle, Shipped
from pipeline.verifier.outcome import Unable
from pipeline.verifier.speed import first_rows
from tests.pipeline.bundles import served
from tests.triton.server import Server, Triton, unpack


@pytest.fixture(scope="session")
def triton(request: pytest.FixtureRequest) -> Triton:
    found = unpack(request.config.cache.mkdir("triton-2.51"))
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="module")
def shipped(built: Path) -> Shipped:
    """What the shared run's bundle says of its ONNX file."""
    return read(Bundle, built / "bundle" / "bundle.json").shipped[0]


@pytest.fixture
def repository(built: Path, tmp_path: Path) -> Path:
    """A copy of the Triton repository of the shared run's bundle."""
    return Path(shutil.copytree(built / "bundle" / "serving" / "triton", tmp_path / "repository"))


@pytest.fixture(scope="module")
def golden(built: Path) -> list[tuple[dict[str, Any], Any, Any]]:
    """Inputs, golden answer and what it may differ by, of the calls of real rows."""
    bundle = built / "bundle"
    calls = [one for one in json.loads((bundle / "bundle.json").read_bytes())["golden"] if one["real"]]
    return [
        (
            {name: np.load(bundle / path) for name, path in call["inputs"].items()},
            *(np.load(bundle / call["outputs"]["probability"][kind]) for kind in ("expected", "allowed")),
        )
        for call in calls
    ]


# --- Triton -----------------------------------------------------------------------------------------------------------


def test_every_configuration_is_one_to_tritons_own_parser(built: Path) -> None:
    model_config = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="extra: pip install tritonclient[grpc]"
    )
    from google.protobuf import text_format

    files = sorted((built / "bundle").rglob("*.pbtxt"))
    assert {path.name for path in files} == {"config.pbtxt", "gpu.pbtxt"}
    for path in files:
        config = text_format.Parse(path.read_text(), model_config.ModelConfig())
        assert (config.name, config.backend, config.max_batch_size) == ("seed", "onnxruntime", 65536)
        assert config.HasField("dynamic_batching")
        assert config.dynamic_batching == model_config.ModelDynamicBatching()
        assert [(one.name, list(one.dims)) for one in config.input] == [("x", [2])]
        assert [one.name for one in config.model_warmup] == ["batch 1", "batch 32"]
        kinds = model_config.ModelInstanceGroup
        assert config.instance_group[0].kind == (kinds.KIND_GPU if path.name == "gpu.pbtxt" else kinds.KIND_CPU)


@pytest.mark.parametrize(
    ("shape", "output", "tested_sizes", "most", "dims"),
    [
        (("batch", 4), ("batch", 3), {"batch": (1, 64)}, 64, [4]),
        (("batch", "length"), ("batch", "length"), {"batch": (1, 8), "length": (2, 128)}, 8, [-1]),
        (("batch", 4), ("batch", "batch"), {"batch": (1, 64)}, 0, [-1, 4]),
        (("batch", 4), ("batch", 3), {"batch": (2, 64)}, 0, [-1, 4]),
        ((3, 4), (3,), {}, 0, [3, 4]),
        (("batch", 4), ("?",), {"batch": (1, 64)}, 0, [-1, 4]),
    ],
    ids=str,
)
def test_the_largest_batch_is_the_one_tested_and_none_where_rows_do_not_stay_apart(
    shape: Any,
    output: Any,
    tested_sizes: dict[str, tuple[int, int]],
    most: int,
    dims: list[int],
    shipped: Shipped,
    tmp_path: Path,
) -> None:
    shipped = _tested(shipped, tested_sizes)
    signature = Signature(
        inputs=(TensorSpec("x", "int64", shape),),
        output_names=("y",),
        outputs=(TensorSpec("y", "float32", output),),
        ranges={name: SizeRange(max=999) for name in tested_sizes},
    )
    row = {"x": np.zeros([1 if isinstance(dim, str) else dim for dim in shape], np.int64)}
    (tmp_path / "model.onnx").write_bytes(b"model")
    write_onnx_repository(tmp_path, "m", tmp_path / "model.onnx", signature, shipped, row)
    text = (tmp_path / "m" / "config.pbtxt").read_text()
    assert ("dynamic_batching" in text) == (most > 1)
    assert (f"max_batch_size: {most}\n" in text) == (most > 0)
    inputs = text[text.index("input {") : text.index("output {")]
    assert [int(dim) for dim in re.findall(r"dims: (-?\d+)", inputs)] == dims


@pytest.mark.parametrize(("joins", "most"), [(True, 64), (False, 0)])
def test_requests_are_not_joined_where_the_rows_of_a_call_look_at_each_other(
    joins: bool, most: int, shipped: Shipped, tmp_path: Path
) -> None:
    tested, row = _tested(shipped, {"batch": (1, 64)}), {"x": np.zeros((8, 4), np.float32)}
    signature = Signature(
        inputs=(TensorSpec("x", "float32", ("batch", 4)),),
        output_names=("y",),
        outputs=(TensorSpec("y", "float32", ("batch", 4)),),
        ranges={"batch": SizeRange(max=64)},
    )
    (tmp_path / "model").write_bytes(b"model")
    write_onnx_repository(tmp_path, "onnx", tmp_path / "model", signature, tested, row, joins=joins)
    write_aoti_repository(tmp_path, "aoti", tmp_path / "model", signature, tested, joins=joins)
    text = (tmp_path / "onnx" / "config.pbtxt").read_text()
    assert ("dynamic_batching" in text, f"max_batch_size: {most}\n" in text) == (joins, joins)
    assert ('name: "golden"' in text) != joins
    assert (tmp_path / "aoti" / "configs" / "batched.pbtxt").exists() == joins


def test_a_call_that_a_function_drew_is_not_cut_to_fewer_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "8.npy", np.arange(8))
    np.save(tmp_path / "2.npy", np.arange(2))
    calls = [{"sizes": {"batch": rows}, "inputs": {"x": f"{rows}.npy"}} for rows in (8, 2)]
    tensor = {"name": "x", "shape": ["batch"]}
    cut = first_rows(tmp_path, {"signature": {"inputs": [tensor]}, "batch": "batch", "golden": calls}, 3)
    assert cut["x"].tolist() == [0, 1, 2]
    drawn = {"signature": {"inputs": [tensor | {"draw": "m:f"}]}, "batch": "batch", "golden": calls}
    assert first_rows(tmp_path, drawn, 2)["x"].tolist() == [0, 1]
    with pytest.raises(Unable, match="no golden call has batch=3"):
        first_rows(tmp_path, drawn, 3)


def _tested(shipped: Shipped, sizes: Mapping[str, tuple[int, int]]) -> Shipped:
    from bench.parity.report import TestedSizes  # named as pytest names its classes

    return replace(shipped, tested_sizes={name: TestedSizes(min=low, max=high) for name, (low, high) in sizes.items()})


FLAT = Signature(
    inputs=(TensorSpec("x", "float32", ("batch", 4)), TensorSpec("shift", "float32", ("batch",))),
    output_names=("sum",),
    outputs=(TensorSpec("sum", "float32", ("batch",)),),
    ranges={"batch": SizeRange(max=8)},
)
"""A tensor of the batch alone, on either side: rows can be joined."""
SCALAR = Signature(
    inputs=(TensorSpec("x", "float32", ("batch", 4)), TensorSpec("scale", "float32", ())),
    output_names=("total",),
    outputs=(TensorSpec("total", "float32", ()),),
    ranges={"batch": SizeRange(max=8)},
)
"""A tensor without any dimension, on either side: they cannot."""


def _small_repository(folder: Path, shipped: Shipped) -> Path:
    """The repository of two models: ``flat``, row sums shifted, and ``scalar``, the sum of everything scaled."""
    rows = helper.make_node("ReduceSum", ["x", "axes"], ["rows"], keepdims=0)
    everything = helper.make_node("ReduceSum", ["x"], ["everything"], keepdims=0)
    for name, signature, nodes, fewest in (
        ("flat", FLAT, [rows, helper.make_node("Add", ["rows", "shift"], ["sum"])], 1),
        ("scalar", SCALAR, [everything, helper.make_node("Mul", ["everything", "scale"], ["total"])], 2),
    ):
        inputs, outputs = (
            [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape) for spec in specs]
            for specs in (signature.inputs, signature.outputs)
        )
        axes = [numpy_helper.from_array(np.array([1]), "axes")] if name == "flat" else []
        graph = helper.make_graph(nodes, name, inputs, outputs, axes)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        file = folder / name / "model.onnx"
        file.parent.mkdir()
        onnx.save(model, str(file))
        call = signature.example({"batch": fewest}, seed=0)
        tested = _tested(shipped, {"batch": (fewest, 8)})
        write_onnx_repository(folder / "repository", name, file, signature, tested, call)
    return folder / "repository"


def test_no_tensor_is_without_dims(shipped: Shipped, tmp_path: Path) -> None:
    """A tensor of the batch alone is reshaped; one without dimensions is not, since the core refuses that."""
    model_config = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="extra: pip install tritonclient[grpc]"
    )
    from google.protobuf import text_format

    repository = _small_repository(tmp_path, shipped)
    for name, most, flat in (("flat", 8, {"shift", "sum"}), ("scalar", 0, {"scale", "total"})):
        text = (repository / name / "config.pbtxt").read_text()
        config = text_format.Parse(text, model_config.ModelConfig())
        assert config.max_batch_size == most
        for tensor in (*config.input, *config.output):
            assert list(tensor.dims) == ([1] if tensor.name in flat else [4] if most else [-1, 4])
            assert tensor.HasField("reshape") == (tensor.name in flat and most > 0)
            assert list(tensor.reshape.shape) == []
        for warmup in config.model_warmup:
            for file, dims in (("x", [4] if most else [2, 4]), ("shift" if most else "scale", [1])):
                entry = warmup.inputs[file]
                assert list(entry.dims) == dims
                size_bytes = (repository / name / "warmup" / entry.input_data_file).stat().st_size
                assert size_bytes == 4 * np.prod(dims)


def test_tritons_core_answers_for_tensors_of_the_batch_alone_and_for_scalars(
    triton: Triton, shipped: Shipped, tmp_path: Path
) -> None:
    pytest.importorskip("tritonclient.http", reason="extra: pip install tritonclient[all]")
    x, shift = np.arange(12, dtype=np.float32).reshape(3, 4), np.array([[10], [20], [30]], np.float32)
    with triton.serving(_small_repository(tmp_path, shipped)) as server:
        assert not server.refused, server.log.read_text()[-3000:]
        for answer in _ask(server, {"x": x, "shift": shift}, "flat", "sum"):
            assert answer.tolist() == [[16], [42], [68]]
        for answer in _ask(server, {"x": x, "scale": np.array([2], np.float32)}, "scalar", "total"):
            assert answer.tolist() == [132]


def test_tritons_core_refuses_empty_dims(triton: Triton, shipped: Shipped, tmp_path: Path) -> None:
    """Which is what a shape without its batch would be, were it written as it is."""
    repository = _small_repository(tmp_path, shipped)
    shutil.rmtree(repository / "scalar")
    config = repository / "flat" / "config.pbtxt"
    config.write_text(config.read_text().replace("  dims: 1\n  reshape {\n  }\n", ""))
    with triton.serving(repository) as server:
        assert server.refused
        assert "must specify 'dims'" in server.log.read_text()


def test_an_aotinductor_repository_batches_where_it_is_asked_to(shipped: Shipped, tmp_path: Path) -> None:
    model_config = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="extra: pip install tritonclient[grpc]"
    )
    from google.protobuf import text_format

    (tmp_path / "model.pt2").write_bytes(b"package")
    write_aoti_repository(tmp_path, "m", tmp_path / "model.pt2", FLAT, _tested(shipped, {"batch": (1, 8)}))
    for file, most, dims in (("config", 0, [[-1, 4], [-1], [-1]]), ("configs/batched", 8, [[4], [1], [1]])):
        text = (tmp_path / "m" / f"{file}.pbtxt").read_text()
        config = text_format.Parse(text, model_config.ModelConfig())
        assert (config.backend, config.platform, config.max_batch_size) == ("pytorch", "torch_aoti", most)
        assert config.HasField("dynamic_batching") == (most > 0)
        tensors = (*config.input, *config.output)
        assert [tensor.name for tensor in tensors] == ["INPUT__0", "INPUT__1", "OUTPUT__0"]
        assert [list(tensor.dims) for tensor in tensors] == dims
        assert [tensor.HasField("reshape") for tensor in tensors] == [False, most > 0, most > 0]
    write_aoti_repository(tmp_path, "n", tmp_path / "model.pt2", FLAT, _tested(shipped, {"batch": (2, 8)}))
    assert not (tmp_path / "n" / "configs").exists()


def test_a_model_that_tritons_pytorch_backend_refuses_gets_no_repository_for_it(built: Path, tmp_path: Path) -> None:
    assert aoti_refuses(FLAT) is None
    assert "scale is one" in str(aoti_refuses(SCALAR))
    for name, signature, is_served in (("flat", FLAT, True), ("scalar", SCALAR, False)):

        def compiled(bundle: Bundle, signature: Signature = signature) -> Bundle:
            package = replace(bundle.shipped[0], backend="aotinductor", file="workload.onnx")  # any file
            return replace(bundle, shipped=(package,), signature=signature)

        serving = served(built / "bundle", tmp_path / name, compiled)
        assert (serving / "triton-aoti" / "seed" / "1" / "model.pt2").exists() is is_served


@pytest.mark.parametrize(("fewest", "dims"), [(1, [2]), (3, [3, 2])])
def test_a_warm_up_has_rows_that_were_tested(fewest: int, dims: list[int], built: Path, tmp_path: Path) -> None:
    def at_least(bundle: Bundle) -> Bundle:
        return replace(bundle, shipped=(_tested(bundle.shipped[0], {"batch": (fewest, 8)}),))

    folder = served(built / "bundle", tmp_path / "bundle", at_least) / "triton" / "seed"
    text = (folder / "config.pbtxt").read_text()
    warmup = text[text.index("model_warmup") :]
    assert [int(dim) for dim in re.findall(r"dims: (\d+)", warmup)][: len(dims)] == dims
    assert (folder / "warmup" / "0.bin").stat().st_size == 4 * 2 * fewest


def _ask(server: Server, inputs: dict[str, Any], model: str = "seed", output: str = "probability") -> Iterator[Any]:
    """The answer over HTTP, then over gRPC."""
    import tritonclient.grpc
    import tritonclient.http

    for client, port in ((tritonclient.http, server.http), (tritonclient.grpc, server.grpc)):
        with client.InferenceServerClient(f"127.0.0.1:{port}") as asked:
            tensors = []
            for name, array in inputs.items():
                tensor = client.InferInput(name, list(array.shape), "FP32")
                tensor.set_data_from_numpy(array)
                tensors.append(tensor)
            yield asked.infer(model, tensors).as_numpy(output)


def test_tritons_core_loads_the_repository_and_answers_within_what_is_allowed(
    triton: Triton, repository: Path, golden: list[tuple[dict[str, Any], Any, Any]]
) -> None:
    """Over HTTP and gRPC, at every golden size; then a second version switches in while it serves."""
    tritonclient = pytest.importorskip("tritonclient.http", reason="extra: pip install tritonclient[all]")
    pytest.importorskip("tritonclient.grpc", reason="extra: pip install tritonclient[all]")
    with triton.serving(repository, "--model-control-mode=explicit", "--load-model=seed") as server:
        assert server.process.poll() is None, server.log.read_text()[-3000:]
        for inputs, expected, allowed in golden:
            for answer in _ask(server, inputs):
                assert answer.shape == expected.shape
                assert (np.abs(answer - expected) <= allowed).all()
        shutil.copytree(repository / "seed" / "1", repository / "seed" / "2")
        with tritonclient.InferenceServerClient(f"127.0.0.1:{server.http}") as client:
            config = client.get_model_config("seed")
            assert config["max_batch_size"] == 65536
            assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 0
            client.load_model("seed")
            assert [one["version"] for one in client.get_model_repository_index() if one["state"] == "READY"] == ["2"]
            assert client.get_inference_statistics("seed")["model_stats"][0]["version"] == "2"


def test_tritons_core_follows_the_serving_folder(triton: Triton, built: Path, tmp_path: Path) -> None:
    """Another version becomes current; asked to load it, the running server does."""
    tritonclient = pytest.importorskip("tritonclient.http", reason="extra: pip install tritonclient[all]")
    from tests.pipeline.bundles import alter_weight

    with releases.opened(tmp_path / "serving") as serving:

        def fill(folder: Path) -> None:
            shutil.copytree(built / "bundle", folder, dirs_exist_ok=True)

        releases.put(serving, fill, 5)
        inputs = {"x": np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)}
        with triton.serving(
            serving / "current" / "serving" / "triton", "--model-control-mode=explicit", "--load-model=seed"
        ) as server:
            assert server.process.poll() is None, server.log.read_text()[-3000:]
            (before, _) = _ask(server, inputs)
            releases.put(serving, fill, 5)
            alter_weight(serving / "2", 3.0)
            shutil.copy(
                serving / "2" / "model.onnx", serving / "2" / "serving" / "triton" / "seed" / "1" / "model.onnx"
            )
            with tritonclient.InferenceServerClient(f"127.0.0.1:{server.http}") as client:
                client.unload_model("seed")
                client.load_model("seed")
            (after, _) = _ask(server, inputs)
            assert np.abs(after - before).max() > 1e-3


READ_ONLY = (
    "unshare", "--mount", "--propagation", "private", "sh", "-ec",
    'mount --bind /tmp /tmp; mount -o remount,ro,bind /; touch /written 2>/dev/null && exit 9; exec "$@"', "sh",
)  # fmt: skip
"""What the Deployment gives a pod: nothing but ``/tmp`` can be written."""


@pytest.mark.slow
def test_tritons_core_serves_from_a_disk_that_it_cannot_write(triton: Triton, repository: Path) -> None:
    if subprocess.run([*READ_ONLY, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount its disk read-only")
    with triton.serving(repository, within=READ_ONLY) as server:
        assert not server.refused, server.log.read_text()[-3000:]
        for answer in _ask(server, {"x": np.ones((3, 2), np.float32)}):
            assert answer.shape == (3, 1)


def _replace(old: str, new: str) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        path = folder / "config.pbtxt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def _batchless(folder: Path) -> None:
    _replace("max_batch_size: 65536\n", "")(folder)
    _replace("dynamic_batching {\n}\n", "")(folder)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "other dimensions": (_replace("dims: 2\n", "dims: 3\n"), "the configuration says"),
    "another type": (_replace("TYPE_FP32", "TYPE_FP64"), "the configuration says"),
    "another name": (_replace('name: "x"', 'name: "y"'), "the configuration says"),
    "an unknown field": (_replace("max_batch_size", "max_batch_sizes"), "max_batch_sizes"),
    "a missing file": (lambda folder: (folder / "1" / "model.onnx").unlink(), "File doesn't exist"),
    "another model's name": (_replace('name: "seed"', 'name: "other"'), "unexpected directory name 'seed'"),
    "no batch": (_batchless, "the configuration says"),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "other dimensions" else pytest.mark.slow) for kind in BROKEN]
)
def test_tritons_core_refuses_a_broken_repository(kind: str, triton: Triton, repository: Path) -> None:
    break_it, reason = BROKEN[kind]
    break_it(repository / "seed")
    with triton.serving(repository) as server:
        assert server.refused
        assert reason in server.log.read_text()


# --- MLflow -----------------------------------------------------------------------------------------------------------


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_mlflow_loads_the_bundle_as_its_own(built: Path, golden: list[tuple[dict[str, Any], Any, Any]]) -> None:
    mlflow = pytest.importorskip("mlflow", reason="extra: pip install mlflow-skinny pandas")
    pytest.importorskip("pandas", reason="extra: pip install mlflow-skinny pandas")
    inputs, expected, allowed = golden[0]
    model = mlflow.pyfunc.load_model(str(built / "bundle"))
    answer = model.predict(inputs)["probability"]
    assert (np.abs(answer - expected) <= allowed).all()
    assert model.metadata.signature.inputs.input_names() == ["x"]
    assert mlflow.onnx.load_model(str(built / "bundle")).graph.name
