"""Every registered backend, held to the same contract by one set of tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from export import registry
from export.arrays import to_numpy, to_torch
from export.artifact import ProgramRecord
from export.backend import LoadOptions, Runner
from export.build import BuildJob, build
from export.device import HOST
from export.errors import ContractError, RecordError, UserError
from export.record import read
from export.registry import STANDARD
from export.signature import SizeRange
from pipeline.find import find
from pipeline.training.source import TrainedModule
from tests.conftest import ROOT, Builder, environ
from tests.models import make

CHEAP = ("eager", "torchscript", "exported", "onnx", "onnx-legacy", "openvino")
OPTIONS = LoadOptions(threads_count=2)


def parameters() -> list[Any]:
    """Every backend by name; a package in half precision takes as long to compile as the one in single."""
    again = [name for name in registry.names() if name not in STANDARD and registry.get(name).compiler == "inductor"]
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in again)) for name in registry.names()]


@pytest.fixture(scope="module", params=parameters())
def artifact_folder(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each backend's artifact of the built run; those that it does not have are built from its program."""
    name: str = request.param
    if name in STANDARD:
        return built / "artifacts" / name
    if (missing := registry.get(name).unavailable("cpu")) is not None:
        pytest.skip(f"extra: {missing}")
    folder = tmp_path_factory.mktemp(name)
    rows = folder / "rows.safetensors"
    save_file({"x": torch.randn(64, 2)}, rows)
    (folder / name).mkdir()
    program = read(ProgramRecord, built / "program" / "program.json")
    job = BuildJob(
        backend=name,
        device="cpu",
        source=TrainedModule(
            location=find("seed").location, weights=str(built / "checkpoint" / "weights.safetensors")
        ).source(),
        signature=program.signature,
        seed=0,
        key="k",
        checkpoint_sha256="c",
        program=str(built / "program"),
        folder=str(folder / name),
        calibration=str(rows),
    )
    build(job)
    return folder / name


@pytest.fixture(scope="module")
def runner(artifact_folder: Path, built: Path) -> Runner:
    """Each backend's artifact, loaded."""
    from safetensors.torch import load_file

    from pipeline.recipes.seed import SimpleNN

    def module() -> torch.nn.Module:
        model = SimpleNN()
        model.load_state_dict(load_file(built / "checkpoint" / "weights.safetensors"))
        return model

    return registry.load(artifact_folder, OPTIONS, module)


def _inputs(rows: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(0).standard_normal((rows, 2)).astype(np.float32)}


@pytest.mark.parametrize("rows", [1, 2, 7, 300])
def test_named_outputs_of_the_kind_of_the_inputs_in_fresh_memory(runner: Runner, rows: int) -> None:
    inputs = _inputs(rows)
    first = runner(inputs)
    assert list(first) == ["probability"]
    kept = first["probability"]
    assert isinstance(kept, np.ndarray)
    kept = kept.copy()
    assert kept.shape == (rows, 1)
    runner({"x": inputs["x"] + 5})
    assert np.array_equal(first["probability"], kept)
    tensor = runner({"x": torch.from_numpy(inputs["x"])})["probability"]
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), kept)


def test_a_bound_call_reads_its_buffers_each_time(runner: Runner) -> None:
    buffer = torch.from_numpy(_inputs(5)["x"])
    with torch.inference_mode():
        bound = runner.bind({"x": buffer})
        before = to_numpy(bound.run()[0]).copy()
        buffer += 1.5
        after = to_numpy(bound.run()[0]).copy()
    expected = runner({"x": buffer.numpy()})["probability"]
    assert not np.array_equal(before, after)
    np.testing.assert_allclose(after, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        {"x": np.zeros((3, 3), np.float32)},
        {"x": np.zeros((3, 2), np.float64)},
        {"x": np.zeros((3, 2), np.int32)},
        {"x": np.zeros((2,), np.float32)},
        {"x": np.zeros((0, 2), np.float32)},
        {"y": np.zeros((3, 2), np.float32)},
        {},
    ],
)
def test_what_breaks_the_contract_is_refused_never_misread(runner: Runner, bad: dict[str, Any]) -> None:
    with pytest.raises(ContractError):
        runner(bad)
    with pytest.raises(ContractError):
        runner.bind(bad)


def test_strided_inputs_are_read_by_value(runner: Runner) -> None:
    wide = np.random.default_rng(1).standard_normal((8, 4)).astype(np.float32)
    for view in (wide[:, ::2], np.ascontiguousarray(wide[:, :2]).T.copy().T, np.broadcast_to(wide[:1, :2], (8, 2))):
        expected = runner({"x": np.ascontiguousarray(view)})["probability"]
        assert np.array_equal(runner({"x": view})["probability"], expected)


@pytest.mark.slow
def test_compiled_code_misreads_what_the_driver_refuses(build_model: Builder) -> None:
    """The twin of the two tests above: with the driver out of the way a package answers wrong inputs, and wrongly."""
    from export.backends import aotinductor

    folder, _ = build_model("Pointwise", "aotinductor")
    bare = aotinductor.open_package(folder / aotinductor.FILE, HOST)
    driver = registry.load(folder, OPTIONS)
    good = torch.randn(6, 4)
    strided = good.T.contiguous().T
    for wrong in (good.double(), strided, good.int()):
        assert not torch.equal(bare([wrong])[0], make("Pointwise")(wrong.float()))
    assert torch.equal(to_torch(driver({"x": strided})["output"]), make("Pointwise")(good))
    for refused in (good.double(), good.int(), good[:, :3]):
        with pytest.raises(ContractError):
            driver({"x": refused})


def test_the_witness_names_the_device_and_no_fallback(runner: Runner) -> None:
    runner(_inputs(3))
    witness = runner.witness()
    assert (witness.device, witness.fallback) == ("cpu", None)


@pytest.mark.slow
def test_compile_brought_everything_that_it_compiled(built: Path) -> None:
    """In a fresh process: no object is built, no graph is compiled, at any size."""
    code = (
        "import json, sys, numpy as np\nfrom pathlib import Path\nfrom export.registry import LoadOptions, load\n"
        "run = load(Path(sys.argv[1]), LoadOptions(threads_count=2))\n"
        "[run({'x': np.zeros((n, 2), np.float32)}) for n in (1, 2, 3, 500)]\n"
        "print(json.dumps([run.witness().evidence, run.witness().fallback]))"
    )
    folder = built / "artifacts" / "compile"
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, env=environ()
    )
    import json

    evidence, fallback = json.loads(done.stdout)
    assert fallback is None
    assert evidence["objects_compiled_at_load"] == "0"
    assert evidence["graph_cache_misses"] == "0"
    assert int(evidence["objects_in_cache"]) > 0


def test_compile_without_its_kernels_says_that_it_compiled(built: Path, tmp_path: Path) -> None:
    """The twin: without its compiled objects the artifact still answers, and the witness reports a fallback."""
    import tarfile

    from export.artifact import RECORD, Artifact
    from export.files import digest_files
    from export.record import read, write

    folder = tmp_path / "compile"
    shutil.copytree(built / "artifacts" / "compile", folder)
    cache = built / "artifacts" / "compile" / "cache.tar"
    with tarfile.open(cache) as whole, tarfile.open(folder / "cache.tar", "w") as rest:
        for member in whole:
            if not member.name.endswith(".so"):
                rest.addfile(member, whole.extractfile(member))
    artifact = read(Artifact, folder / RECORD)
    from dataclasses import replace

    write(folder / RECORD, replace(artifact, files=digest_files(folder, [folder / f.path for f in artifact.files])))
    code = (
        "import sys\nfrom pathlib import Path\nfrom export.registry import LoadOptions, load\n"
        "print(load(Path(sys.argv[1]), LoadOptions(threads_count=2)).witness().fallback)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, env=environ()
    )
    assert "were compiled at load" in done.stdout


def test_a_file_with_one_byte_changed_is_refused_before_it_is_loaded(artifact_folder: Path, tmp_path: Path) -> None:
    if artifact_folder.name == "eager":
        return  # has no files
    folder = tmp_path / artifact_folder.name
    shutil.copytree(artifact_folder, folder)
    for path in [one for one in folder.iterdir() if one.suffix != ".json"]:
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(RecordError, match=path.name):
            registry.load(folder, OPTIONS)
        path.write_bytes(good)
    registry.load(folder, OPTIONS)


@pytest.mark.parametrize("name", CHEAP)
def test_keywords_nested_results_and_two_dynamic_dimensions(name: str, build_model: Builder) -> None:
    folder, artifact = build_model("Nested", name)
    runner = registry.load(folder, OPTIONS, lambda: make("Nested"))
    for sizes in ({"batch": 1, "length": 2}, {"batch": 7, "length": 40}):
        inputs: Any = artifact.signature.example(sizes, seed=1)
        outputs = runner(inputs)
        answer = make("Nested")(torch.from_numpy(inputs["tokens"]), scale=torch.from_numpy(inputs["scale"]))
        assert list(outputs) == ["logits", "extras.pair.0", "extras.pair.1"]
        np.testing.assert_allclose(outputs["logits"], answer.logits.detach().numpy(), atol=1e-5)
        assert np.array_equal(outputs["extras.pair.1"], answer.extras["pair"][1].numpy())


@pytest.mark.parametrize("name", CHEAP)
def test_booleans_integers_and_half_precision_pass_through_both_ways_of_calling(
    name: str, build_model: Builder
) -> None:
    folder, artifact = build_model("Masked", name)
    runner = registry.load(folder, OPTIONS, lambda: make("Masked"))
    inputs = {key: torch.from_numpy(array) for key, array in artifact.signature.example({"batch": 9}, seed=1).items()}
    wanted = make("Masked")(*inputs.values())
    with torch.inference_mode():
        bound = [to_torch(output) for output in runner.bind(inputs).run()]
    checked = [to_torch(output) for output in runner(inputs).values()]
    for outputs in (bound, checked):
        assert [output.dtype for output in outputs] == [torch.bool, torch.float16]
        assert torch.equal(outputs[0], wanted[0])
        torch.testing.assert_close(outputs[1], wanted[1])


def test_a_module_with_control_flow_is_scripted_and_the_others_say_why_not(build_model: Builder) -> None:
    folder, artifact = build_model("Branch", "torchscript")
    assert artifact.facts["form"] == "script"
    runner = registry.load(folder, OPTIONS)
    for sign in (1, -1):
        x = np.full((4, 4), sign, np.float32)
        answer = make("Branch")(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(runner({"x": x})["output"], answer, atol=1e-6)
    with pytest.raises(UserError, match="cannot be traced"):
        build_model("Branch", "exported")


def test_what_cannot_be_scripted_is_traced_with_the_reason(build_model: Builder) -> None:
    _, artifact = build_model("Nested", "torchscript")
    assert artifact.facts["form"] == "trace"
    assert artifact.facts["road"] == "trace"
    assert artifact.facts["not_by_script"].startswith("OSError: ")


def test_an_onnx_file_carries_names_ranges_and_no_path_of_this_machine(build_model: Builder) -> None:
    import onnx

    folder, artifact = build_model("Nested", "onnx")
    model = onnx.load(folder / "model.onnx")
    assert [value.name for value in model.graph.input] == ["tokens", "scale"]
    assert [value.name for value in model.graph.output] == ["logits", "extras.pair.0", "extras.pair.1"]
    assert [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", "length"]
    assert artifact.facts["opset"] == str(model.opset_import[0].version)
    data = (folder / "model.onnx").read_bytes()
    assert b"models.py" in data
    for secret in (str(ROOT), sys.prefix, str(Path.home())):
        assert secret.encode() not in data


def test_an_onnx_model_is_served_without_torch(built: Path) -> None:
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom export.registry import LoadOptions, load\n"
        "run = load(Path(sys.argv[1]), LoadOptions())\nrun({'x': np.zeros((2, 2), np.float32)})\n"
        "print('torch' in sys.modules)"
    )
    folder = built / "artifacts" / "onnx"
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, env=environ()
    )
    assert done.stdout.strip() == "False"


def test_importing_the_contract_imports_no_runtime() -> None:
    code = "import sys, export.backend\nprint([m for m in ('torch', 'onnx', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ())
    assert done.stdout.strip() == "[]"


def test_an_unknown_backend_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"must be one of eager, .*, got 'tensorrt'"):
        registry.get("tensorrt")


def test_a_size_outside_its_range_is_refused(build_model: Builder) -> None:
    folder, artifact = build_model("Nested", "exported")
    assert artifact.signature.ranges["batch"] == SizeRange(max=300)
    runner = registry.load(folder, OPTIONS)
    too_many: Any = artifact.signature.example({"batch": 301, "length": 3}, seed=0)
    with pytest.raises(ContractError, match=r"'batch' must lie in \[1, 300\], got 301"):
        runner(too_many)
