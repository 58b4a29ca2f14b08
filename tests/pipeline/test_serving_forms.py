"""The forms in which a bundle is served, each held against somebody else's check of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from export.signature import Signature, SizeRange, TensorSpec
from pipeline.bundle import releases
from pipeline.bundle.forms.triton import write_onnx_repository
from pipeline.bundle.record import Shipped
from tests.conftest import ROOT
from tests.triton.server import Server, Triton, unpack

CRD = ROOT.parent / "shared" / "data" / "kserve-inferenceservice-v1beta1.schema.json"


@pytest.fixture(scope="session")
def triton(request: pytest.FixtureRequest) -> Triton:
    found = unpack(request.config.cache.mkdir("triton-2.51"))
    if isinstance(found, str):
        pytest.skip(found)
    return found


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
    built: Path,
    tmp_path: Path,
) -> None:
    from bench.parity.report import TestedSizes
    from export.record import from_json

    fields = json.loads((built / "bundle" / "bundle.json").read_bytes())["shipped"][0]
    sizes = {name: {"min": low, "max": high} for name, (low, high) in tested_sizes.items()}
    shipped = from_json(Shipped, fields | {"tested_sizes": sizes})
    assert all(isinstance(tested, TestedSizes) for tested in shipped.tested_sizes.values())
    signature = Signature(
        inputs=(TensorSpec("x", "int64", shape),),
        output_names=("y",),
        outputs=(TensorSpec("y", "float32", output),),
        ranges={name: SizeRange(max=999) for name in tested_sizes},
    )
    row = {"x": np.zeros([1 if isinstance(dim, str) else dim for dim in shape], np.int64)}
    write_onnx_repository(tmp_path, "m", built / "bundle" / "model.onnx", signature, shipped, row)
    text = (tmp_path / "m" / "config.pbtxt").read_text()
    assert ("dynamic_batching" in text) == (most > 1)
    assert (f"max_batch_size: {most}\n" in text) == (most > 0)
    inputs = text[text.index("input {") : text.index("output {")]
    assert [int(dim) for dim in re.findall(r"dims: (-?\d+)", inputs)] == dims


def _ask(server: Server, inputs: dict[str, Any]) -> Iterator[Any]:
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
            yield asked.infer("seed", tensors).as_numpy("probability")


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


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def test_kserves_own_schema_accepts_the_service_and_refuses_a_misspelt_one(built: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="extra: pip install jsonschema")
    if not CRD.exists():
        pytest.skip("KServe's CRD is not beside this checkout (shared/data)")
    schema = json.loads(CRD.read_text())
    service = yaml.safe_load((built / "bundle" / "serving" / "kserve.yaml").read_text())
    jsonschema.validate(service, schema)
    model = service["spec"]["predictor"]["model"]
    assert (model["protocolVersion"], model["runtime"]) == ("v2", "kserve-tritonserver")
    model["storageUrl"] = model.pop("storageUri")
    with pytest.raises(jsonschema.ValidationError, match="storageUrl"):
        jsonschema.validate(service, schema)


def test_kubernetes_own_schema_accepts_deployment_and_service(built: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="extra: pip install kubernetes-validate")
    documents = list(yaml.safe_load_all((built / "bundle" / "serving" / "kubernetes.yaml").read_text()))
    assert [one["kind"] for one in documents] == ["Deployment", "Service"]
    for one in documents:
        validate.validate(one, validate.latest_version(), strict=True)
    documents[0]["spec"]["replica"] = 2
    with pytest.raises(validate.ValidationError):
        validate.validate(documents[0], validate.latest_version(), strict=True)


def test_the_image_copies_what_is_there(built: Path) -> None:
    text = (built / "bundle" / "serving" / "Dockerfile").read_text()
    (source,) = re.findall(r"^COPY (\S+) /models$", text, re.M)
    assert (built / "bundle" / source / "seed" / "config.pbtxt").exists()


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
