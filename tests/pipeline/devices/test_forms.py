"""What a GPU's winner is served by: forms that ask for a GPU, take its configuration, and leave TF32 alone."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.parity.report import ParityReport
from bench.verdict.judge import Verdict
from export.record import read
from pipeline.bundle.forms.mlflow import write_mlmodel
from pipeline.bundle.forms.triton import write_aoti_repository
from pipeline.bundle.model_card import write_model_card
from pipeline.bundle.record import Bundle
from tests.conftest import ROOT
from tests.pipeline.bundles import served

GOLDEN = ROOT / "tests" / "golden" / "bundle-2"
DEVICES = ("cpu", "cuda", "cuda:1")


def judged_on(device: str, bundle: Bundle) -> Bundle:
    """A bundle's record as if all of it had been judged on that device."""
    shipped = tuple(replace(one, options=replace(one.options, device=device)) for one in bundle.shipped)
    return replace(bundle, shipped=shipped)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By device: the golden bundle's serving forms, as of a winner there; MLflow's lie in the folder above."""
    folder = tmp_path_factory.mktemp("forms")
    return {device: served(GOLDEN, folder / device.replace(":", "-"), partial(judged_on, device)) for device in DEVICES}


def _container(serving: Path) -> dict[str, Any]:
    deployment, _ = yaml.safe_load_all((serving / "kubernetes.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(container)


def _kserve(serving: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((serving / "kserve.yaml").read_text())["spec"]["predictor"]["model"])


def test_the_pods_of_a_gpus_winner_get_one_gpu_and_its_configuration(forms: dict[str, Path]) -> None:
    """All else is what a CPU's winner gets; another index of the device is the one GPU of a pod as well."""
    plain, plain_kserve = _container(forms["cpu"]), _kserve(forms["cpu"])
    assert "nvidia.com/gpu" not in json.dumps([plain, plain_kserve])
    assert "args" not in plain_kserve
    for device in DEVICES[1:]:
        container, kserve = _container(forms[device]), _kserve(forms[device])
        for pod in (container, kserve):
            assert pod["resources"]["limits"].pop("nvidia.com/gpu") == "1"
            assert pod["resources"] == plain["resources"]
        assert kserve.pop("args") == ["--model-config-name=gpu"]
        assert container["args"][-1] == "--model-config-name=gpu"
        assert container["args"][:-1] == plain["args"]
        environ = {entry["name"]: entry["value"] for entry in kserve.pop("env")}
        assert environ.pop("NVIDIA_TF32_OVERRIDE") == "0"
        assert environ == {entry["name"]: entry["value"] for entry in plain_kserve["env"]}
        assert kserve == {name: value for name, value in plain_kserve.items() if name != "env"}
        keep = container.keys() - {"args", "image"}
        assert {name: container[name] for name in keep} == {name: plain[name] for name in keep}


def test_the_image_of_a_gpus_winner_starts_its_configuration_without_tf32(forms: dict[str, Path]) -> None:
    for device, serving in forms.items():
        text = (serving / "Dockerfile").read_text()
        (command,) = re.findall(r"^CMD (.+)$", text, re.MULTILINE)
        (environ,) = re.findall(r"^ENV (.+)$", text, re.MULTILINE)
        on_gpu = device != "cpu"
        assert json.loads(command)[:2] == ["tritonserver", "--model-repository=/models"]
        assert json.loads(command)[2:] == (["--model-config-name=gpu"] if on_gpu else [])
        assert ("NVIDIA_TF32_OVERRIDE=0" in environ.split()) is on_gpu


def test_an_update_waits_for_no_second_gpu(forms: dict[str, Path]) -> None:
    strategies = {}
    for device, serving in forms.items():
        deployment, _ = yaml.safe_load_all((serving / "kubernetes.yaml").read_text())
        strategies[device] = deployment["spec"].get("strategy", {}).get("rollingUpdate")
    one_by_one = {"maxSurge": 0, "maxUnavailable": 1}
    assert strategies == {"cpu": None, "cuda": one_by_one, "cuda:1": one_by_one}


def test_images_that_start_otherwise_have_other_tags(forms: dict[str, Path]) -> None:
    """The same files for a CPU and for a GPU: a node that has the one image must not take it for the other."""
    images = {device: _container(serving)["image"] for device, serving in forms.items()}
    assert images["cpu"] != images["cuda"] == images["cuda:1"]


def test_the_gpu_objects_are_valid_kubernetes(forms: dict[str, Path]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="extra: pip install kubernetes-validate")
    for document in yaml.safe_load_all((forms["cuda"] / "kubernetes.yaml").read_text()):
        validate.validate(document, validate.latest_version(), strict=True)


def test_kserves_own_schema_accepts_the_service_of_a_gpus_winner(forms: dict[str, Path]) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="extra: pip install jsonschema")
    crd = ROOT.parent / "shared" / "data" / "kserve-inferenceservice-v1beta1.schema.json"
    if not crd.exists():
        pytest.skip("KServe's CRD is not beside this checkout (shared/data)")
    schema = json.loads(crd.read_text())
    service = yaml.safe_load((forms["cuda"] / "kserve.yaml").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(service)


def test_openvino_which_has_no_gpu_here_serves_what_a_cpu_judged_alone(forms: dict[str, Path]) -> None:
    assert {name: (serving / "kserve-openvino.yaml").exists() for name, serving in forms.items()} == {
        "cpu": True, "cuda": False, "cuda:1": False,
    }  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_tritons_gpu_configuration_tells_the_provider_to_leave_tf32(device: str, forms: dict[str, Path]) -> None:
    model_config = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="extra: pip install tritonclient[grpc]"
    )
    from google.protobuf import text_format

    (folder,) = (forms[device] / "triton").iterdir()
    cpu, gpu = (
        text_format.Parse((folder / name).read_text(), model_config.ModelConfig())
        for name in ("config.pbtxt", "configs/gpu.pbtxt")
    )
    (accelerator,) = gpu.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})
    assert not gpu.optimization.execution_accelerators.cpu_execution_accelerator
    assert not cpu.optimization.HasField("execution_accelerators")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_package_for_a_gpu_says_how_its_server_is_started(device: str, tmp_path: Path) -> None:
    """Its backend has no parameter for TF32."""
    model_config = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="extra: pip install tritonclient[grpc]"
    )
    from google.protobuf import text_format

    bundle = judged_on(device, read(Bundle, GOLDEN / "bundle.json"))
    (tmp_path / "model.pt2").write_bytes(b"package")
    write_aoti_repository(tmp_path, "m", tmp_path / "model.pt2", bundle.signature, bundle.shipped[0])
    text = (tmp_path / "m" / "config.pbtxt").read_text()
    assert ("NVIDIA_TF32_OVERRIDE=0" in text) is (device == "cuda")
    config = text_format.Parse(text, model_config.ModelConfig())
    kinds = model_config.ModelInstanceGroup
    assert config.instance_group[0].kind == (kinds.KIND_GPU if device == "cuda" else kinds.KIND_CPU)


# --- what people copy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_mlflow_is_told_the_provider_that_parity_was_tested_on(device: str, forms: dict[str, Path]) -> None:
    bundle = forms[device].parent
    (provider,) = yaml.safe_load((bundle / "MLmodel").read_text())["flavors"]["onnx"]["providers"]
    requirements = (bundle / "requirements.txt").read_text().split()
    runtimes = [line.partition("==")[0] for line in requirements if line.startswith("onnxruntime")]
    if device == "cpu":
        assert provider == "CPUExecutionProvider"
        assert requirements[0] == "mlflow"
    else:
        assert provider == ["CUDAExecutionProvider", {"use_tf32": "0"}]
        assert runtimes == ["onnxruntime-gpu"]


def test_a_gpus_winner_asks_for_the_gpu_build_whatever_build_wrote_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.bundle.forms import mlflow

    monkeypatch.setattr(mlflow, "versions", lambda: {"numpy": "2.0", "onnx": "1.20", "onnxruntime": "1.30.0"})
    for device, wanted in (("cpu", "onnxruntime==1.30.0"), ("cuda", "onnxruntime-gpu==1.30.0")):
        bundle = judged_on(device, read(Bundle, GOLDEN / "bundle.json"))
        write_mlmodel(tmp_path, "model.onnx", bundle.signature, bundle.shipped[0])
        assert wanted in (tmp_path / "requirements.txt").read_text().split()


@pytest.mark.extra
@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_mlflow_hands_the_gpus_provider_on_and_warns_where_it_does_not_open(
    forms: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="extra: pip install mlflow-skinny pandas")
    pytest.importorskip("pandas", reason="extra: pip install mlflow-skinny pandas")
    import onnxruntime

    opened: list[Any] = []
    session = onnxruntime.InferenceSession

    def noted(*arguments: Any, **named: Any) -> Any:
        opened.append(named["providers"])
        return session(*arguments, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    monkeypatch.setattr(logging.getLogger("mlflow"), "propagate", True)
    mlflow.pyfunc.load_model(str(forms["cuda"].parent))
    assert opened == [[("CUDAExecutionProvider", {"use_tf32": "0"})]]
    on_gpu = "CUDAExecutionProvider" in session(str(GOLDEN / "model.onnx"), providers=opened[0]).get_providers()
    assert ("Inference will run on CPU" in caplog.text) is not on_gpu


def _example(device: str, path: Path) -> str:
    """The code of the golden bundle's model card, were it judged there."""
    records = GOLDEN / "records"
    bundle = judged_on(device, read(Bundle, GOLDEN / "bundle.json"))
    verdict, report = read(Verdict, records / "verdict.json"), read(ParityReport, records / "parity" / "onnx.json")
    write_model_card(path, bundle, verdict, {"onnx": report})
    (code,) = re.findall(r"```python\n(.+?)```", path.read_text(), re.DOTALL)
    return str(code)


def test_the_cards_example_runs_on_the_device_or_says_that_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real runtime: on a machine without CUDA it takes the CPU for the GPU, which the example does not let pass."""
    import onnxruntime

    monkeypatch.chdir(GOLDEN)
    exec(compile(_example("cpu", tmp_path / "README.md"), "card", "exec"), {})
    code = _example("cuda", tmp_path / "README.md")
    assert '"CUDAExecutionProvider", {"use_tf32": 0}' in code
    assert "CPUExecutionProvider" not in code
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime refuses the provider by itself")
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)  # prints what it does not find
    session = onnxruntime.InferenceSession("model.onnx", providers=["CUDAExecutionProvider"], enable_fallback=0)
    if "CUDAExecutionProvider" in session.get_providers():
        pytest.skip("a GPU is here")
    with pytest.raises(AssertionError):
        exec(compile(code, "card", "exec"), {})
