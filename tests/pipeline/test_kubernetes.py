"""What Kubernetes and KServe are given: valid under any name, replaced when the model is, and with few rights."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

from export.errors import UserError
from export.record import read
from export.signature import Signature, TensorSpec
from pipeline.bundle.forms.kserve import write_kserve, write_kserve_openvino
from pipeline.bundle.forms.kubernetes import BASE_IMAGE, check_image, write_deployment
from pipeline.bundle.forms.objects import label
from pipeline.bundle.record import Bundle
from pipeline.recipe import Recipe
from tests.conftest import ROOT
from tests.pipeline.bundles import alter_weight, served
from tests.pipeline.test_ship import ship

CRD = ROOT.parent / "shared" / "data" / "kserve-inferenceservice-v1beta1.schema.json"
DIGEST = "sha256:" + "0123456789abcdef" * 4
SERVICE_NAME = r"[a-z]([-a-z0-9]*[a-z0-9])?"
"""RFC 1035, and what KServe's webhook matches the name of an ``InferenceService`` with."""
LABEL_VALUE = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
IMAGE = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
"""The grammar of references of the distribution project, for one part without a registry."""
APPENDED = "-predictor-00001-private"


@pytest.fixture(scope="module")
def bundle_record(built: Path) -> Bundle:
    """``bundle.json`` of the shared run."""
    return read(Bundle, built / "bundle" / "bundle.json")


def _objects(folder: Path) -> list[dict[str, Any]]:
    """The Deployment and its Service."""
    return list(yaml.safe_load_all((folder / "kubernetes.yaml").read_text()))


# --- names ------------------------------------------------------------------------------------------------------------


names = st.text(st.characters(categories=["L", "N"], include_characters="-_."), min_size=1, max_size=90)


@settings(max_examples=40, deadline=None)
@given(name=names, content=st.from_regex("[0-9a-f]{12}", fullmatch=True))
@example(name="My_Model", content="1234567890ab")
@example(name="model.v2", content="123456789012")
@example(name="m" * 80, content="12345e678901")  # a number to Go's parser, not to PyYAML
@example(name="Ä", content="0" * 12)
@example(name="模型", content="0" * 12)
@example(name="12", content="0" * 12)
@example(name="y", content="0" * 12)  # true to Go's parser
@example(name="null", content="0" * 12)
@example(name="_", content="0" * 12)
def test_any_name_of_a_recipe_gives_valid_objects(name: str, content: str, bundle_record: Bundle) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="extra: pip install kubernetes-validate")
    try:
        Recipe(name=name, model=nn.Identity, signature=Signature(inputs=(TensorSpec("x", "float32", (1,)),)))
    except UserError:
        assume(False)
    (shipped,) = bundle_record.shipped
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_deployment(folder, label(name), shipped, content, BASE_IMAGE)
        write_kserve(folder / "kserve.yaml", label(name), shipped, f"pvc://{label(name)}/serving", content)
        write_kserve_openvino(folder / "kserve-openvino.yaml", label(name), shipped, "s3://models", content)
        deployment, service = _objects(folder)
        inferences = [yaml.safe_load(path.read_text()) for path in folder.glob("kserve*.yaml")]
        files = [path.read_text() for path in folder.glob("*.yaml")]
        (image,) = re.findall("docker build -t (.+) -f", (folder / "Dockerfile").read_text())
    for one in (deployment, service):
        validate.validate(one, validate.latest_version(), strict=True)
    for one in (deployment, service, *inferences):
        assert re.fullmatch(SERVICE_NAME, one["metadata"]["name"])
        assert len(one["metadata"]["name"] + APPENDED) <= 63
        for value in one["metadata"].get("labels", {}).values():
            assert re.fullmatch(LABEL_VALUE, value)
            assert len(value) <= 63
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert re.fullmatch(IMAGE, image)
    assert container["image"] == image
    for text in files:
        _is_read_alike(text)


def _is_read_alike(text: str) -> None:
    """Every text that stands there without quotes is one to all parsers of YAML, whatever version they follow."""
    for token in yaml.scan(text):
        if isinstance(token, yaml.ScalarToken) and token.plain:
            assert re.fullmatch(r"[A-Za-z][A-Za-z0-9./-]{2,}|[0-9]{1,5}", token.value), token.value


@pytest.mark.parametrize("text", ["12345e678901", "y", "0x1f"])
def test_plain_yaml_would_not_be_read_alike(text: str) -> None:
    with pytest.raises(AssertionError):
        _is_read_alike(yaml.safe_dump({"name": text}).replace("'", ""))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("seed", "seed"),
        ("my-model-2", "my-model-2"),
        ("My_Model", "my-model"),
        ("Äpfel.v2", "apfel-v2"),
        ("7", "model-7"),
    ],
)
def test_a_model_is_called_as_like_its_recipe_as_it_may_be(name: str, expected: str) -> None:
    assert label(name) == expected


def test_every_form_calls_the_model_the_same(built: Path, tmp_path: Path) -> None:
    serving = served(built / "bundle", tmp_path / "bundle", lambda bundle: replace(bundle, name="Mö_模.v2"))
    assert [path.name for path in (serving / "triton").iterdir()] == ["mo-v2"]
    assert 'name: "mo-v2"\n' in (serving / "triton" / "mo-v2" / "config.pbtxt").read_text()
    services = {path.name: yaml.safe_load(path.read_text()) for path in serving.glob("kserve*.yaml")}
    assert {service["metadata"]["name"] for service in services.values()} == {"mo-v2"}
    uris = {file: service["spec"]["predictor"]["model"]["storageUri"] for file, service in services.items()}
    repository = "pvc://mo-v2/serving/triton"
    assert uris == {"kserve.yaml": repository, "kserve-openvino.yaml": f"{repository}/mo-v2"}
    assert {one["metadata"]["name"] for one in _objects(serving)} == {"mo-v2"}


# --- content ----------------------------------------------------------------------------------------------------------


def test_another_model_is_another_image_and_the_same_is_the_same(built: Path, tmp_path: Path) -> None:
    """Otherwise ``kubectl apply`` of a new version finds nothing that changed, and the old one goes on serving."""
    first, again = (served(built / "bundle", tmp_path / name) for name in ("first", "again"))
    based = served(built / "bundle", tmp_path / "based", base_image=f"triton@{DIGEST}")
    altered = Path(shutil.copytree(built / "bundle", tmp_path / "altered"))
    alter_weight(altered, 2.0)
    other = served(altered, tmp_path / "other")
    for name in ("kubernetes.yaml", "kserve.yaml", "kserve-openvino.yaml", "Dockerfile"):
        assert (first / name).read_bytes() == (built / "bundle" / "serving" / name).read_bytes()
        assert (first / name).read_bytes() == (again / name).read_bytes()
    templates = [_objects(folder)[0]["spec"]["template"] for folder in (first, other, based)]
    images = [template["spec"]["containers"][0]["image"] for template in templates]
    assert len(set(images)) == 3
    for folder, image in zip((first, other, based), images, strict=True):
        name, _, content = image.partition(":")
        assert (name, len(content)) == ("seed", 12)
        assert f"docker build -t {image} " in (folder / "Dockerfile").read_text()
        for file in ("kserve.yaml", "kserve-openvino.yaml"):
            predictor = yaml.safe_load((folder / file).read_text())["spec"]["predictor"]
            assert predictor["labels"] == {"app.kubernetes.io/version": content}
    selectors = [_objects(folder)[0]["spec"]["selector"] for folder in (first, other, based)]
    assert selectors[0] == selectors[1] == selectors[2]  # which no Deployment may change


# --- rights -----------------------------------------------------------------------------------------------------------


def test_the_pod_keeps_to_the_restricted_profile(built: Path) -> None:
    """Of Kubernetes' Pod Security Standards; and more than that: no token, a disk that is read only."""
    pod = _objects(built / "bundle" / "serving")[0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert all(volume.keys() <= {"name", "emptyDir"} for volume in pod["volumes"])
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]


def test_the_image_copies_what_is_there_and_runs_as_the_pods_user(built: Path) -> None:
    text = (built / "bundle" / "serving" / "Dockerfile").read_text()
    pod = _objects(built / "bundle" / "serving")[0]["spec"]["template"]["spec"]
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert re.findall("^USER (.+)$", text, re.MULTILINE) == [user]
    ((owner, source),) = re.findall(r"^COPY --chown=(\S+) (\S+) /models$", text, re.MULTILINE)
    assert owner == user
    assert (built / "bundle" / source / "seed" / "config.pbtxt").exists()


def test_a_base_image_that_is_asked_for_is_the_one_that_is_built_on(built: Path, tmp_path: Path) -> None:
    pinned = f"nvcr.io/nvidia/tritonserver@{DIGEST}"
    done = ship(built, "--to", tmp_path / "serving", "--base-image", pinned, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"\nFROM {pinned}\n" in (tmp_path / "serving" / "current" / "serving" / "Dockerfile").read_text()


@pytest.mark.parametrize("image", [f"t@{DIGEST}", f"localhost:5000/a/b:1@{DIGEST}", "ubuntu:24.04", BASE_IMAGE])
def test_an_image_by_tag_or_digest_is_taken(image: str) -> None:
    check_image(image)


@pytest.mark.parametrize(
    "image", ["", "t", "localhost:5000/t", "t:1\nRUN evil", "t:1 AS t", "t@sha256:0", f"t@{DIGEST.upper()}", "-t:1"]
)
def test_an_image_that_is_none_or_any_is_refused(image: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="with its tag or digest"):
        check_image(image)


def test_ship_refuses_a_base_image_before_it_does_anything(tmp_path: Path) -> None:
    done = ship("no-such-recipe", "--to", tmp_path / "serving", "--base-image", "tritonserver")
    assert (done.returncode, "--base-image must name an image" in done.stderr) == (2, True)


# --- the schemas of others --------------------------------------------------------------------------------------------


def test_kserves_own_schema_accepts_the_services_and_refuses_misspelt_ones(built: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="extra: pip install jsonschema")
    if not CRD.exists():
        pytest.skip("KServe's CRD is not beside this checkout (shared/data)")
    schema = json.loads(CRD.read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    for file, runtime in (("kserve.yaml", "kserve-tritonserver"), ("kserve-openvino.yaml", "kserve-openvino")):
        service = yaml.safe_load((built / "bundle" / "serving" / file).read_text())
        validator.validate(service)
        model = service["spec"]["predictor"]["model"]
        assert (model["protocolVersion"], model["runtime"]) == ("v2", runtime)
        model["storageUrl"] = model.pop("storageUri")
        with pytest.raises(jsonschema.ValidationError, match="storageUrl"):
            validator.validate(service)


def test_kubernetes_own_schema_accepts_deployment_and_service(built: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="extra: pip install kubernetes-validate")
    documents = _objects(built / "bundle" / "serving")
    assert [one["kind"] for one in documents] == ["Deployment", "Service"]
    for one in documents:
        validate.validate(one, validate.latest_version(), strict=True)
    documents[0]["spec"]["replica"] = 2
    with pytest.raises(validate.ValidationError):
        validate.validate(documents[0], validate.latest_version(), strict=True)


@pytest.mark.extra
def test_openvino_runs_the_folder_that_its_server_is_given_as_the_file_says(built: Path) -> None:
    """By the settings that stand there, from the one numbered folder; at the golden calls of real rows."""
    openvino = pytest.importorskip("openvino", reason="extra: pip install 'torchstone[openvino]'")
    bundle = built / "bundle"
    model = yaml.safe_load((bundle / "serving" / "kserve-openvino.yaml").read_text())["spec"]["predictor"]["model"]
    assert model["storageUri"].startswith("pvc://seed/")
    folder = bundle / model["storageUri"].removeprefix("pvc://seed/")
    assert [path.name for path in folder.iterdir() if path.is_dir() and path.name.isdigit()] == ["1"]
    (setting,) = model["args"]
    settings = json.loads(setting.removeprefix("--plugin_config="))
    compiled = openvino.Core().compile_model(str(folder / "1" / "model.onnx"), "CPU", settings)
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_dtype() == np.float32
    for call in read(Bundle, bundle / "bundle.json").golden:
        if call.real:
            answer = compiled({name: np.load(bundle / path) for name, path in call.inputs.items()})["probability"]
            expected, allowed = (
                np.load(bundle / path)
                for path in (call.outputs["probability"].expected, call.outputs["probability"].allowed)
            )
            assert (np.abs(answer - expected) <= allowed).all()
