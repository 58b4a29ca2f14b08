"""What a person meets who gets something wrong: one screen, exit code 2, nothing half-written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.run_folder import RunFolder
from export.version import VERSION
from tests.conftest import ROOT, environ, importing_torch_s, pipeline, within_cpu_s
from tests.pipeline.conftest import latest

HEAD = """
from torch import nn
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe

def recipe():
    return Recipe(
        name="bad", model=lambda: nn.Linear(4, 2), backends=("eager", "exported"),
"""
WRONG_WIDTH = (
    HEAD
    + """
        signature=Signature(inputs=(TensorSpec("x", "float32", ("batch", 5)),), ranges={"batch": SizeRange()}))
"""
)
ABSENT_DIMENSION = (
    HEAD
    + """
        signature=Signature(inputs=(TensorSpec("x", "float32", (3, 4)),), ranges={"batch": SizeRange()}))
"""
)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["sede"], "did you mean 'seed'?"),
        (["nowhere.py"], "there is no recipe file nowhere.py"),
        ([str(ROOT / "pipeline" / "data.py")], "it must define a function 'recipe'"),
        (["seed", "--train.epochs", "0"], "train.epochs must be >= 1, got 0"),
        (["seed", "--train.epoch", "3"], "--train.epoch"),
        (["seed", "--backends", "onnx", "tensorrt"], "got 'tensorrt'"),
        (["seed", "--seed", "-1"], "seed must lie in [0, 2**32), got -1"),
        (["--quiet", "digits"], "the recipe comes first: python -m pipeline.all digits --quiet"),
        (["seed", "--out", "/dev/null"], "the output folder /dev/null cannot be used: "),
        (["seed", "--out", "/proc/out"], "the output folder /proc/out cannot be used: "),
    ],
)
def test_a_mistake_is_named_on_one_screen(arguments: list[str], reason: str, tmp_path: Path) -> None:
    done = pipeline(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert reason in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 24
    assert list(tmp_path.iterdir()) == []


ENDS = {
    "while it is imported": "import sys\nsys.exit(0)",
    "in its function": "import sys\ndef recipe():\n    sys.exit(0)",
    "in the model": WRONG_WIDTH.replace("lambda: nn.Linear(4, 2)", "exit"),
}


@pytest.mark.parametrize("place", ENDS)
def test_a_recipe_that_ends_the_process_has_not_succeeded(place: str, tmp_path: Path) -> None:
    """``sys.exit()`` would otherwise be an end with 0, and nothing judged."""
    (tmp_path / "ends.py").write_text(ENDS[place])
    done = pipeline("ends.py", cwd=tmp_path)
    assert (done.returncode, "SystemExit" in done.stderr) == (2, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_in_the_place_of_a_file_is_named(mine: Path) -> None:
    verdict = RunFolder(latest(mine)).verdict
    verdict.unlink()
    verdict.mkdir()
    done = pipeline("cheap.py", cwd=mine)
    assert done.returncode == 2
    assert f"error: {verdict} cannot be used (Is a directory)" in done.stderr


@pytest.mark.parametrize("name", ["export.py", "bench.py", "bench/__init__.py"])
def test_a_file_that_hides_a_package_of_ours_is_named_and_never_run(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise RuntimeError('this ran')")
    done = pipeline("seed", "--help", cwd=tmp_path)
    assert done.returncode == 2
    assert f"error: {tmp_path / name} hides Torchstone's package '{re.split(r'[/.]', name)[0]}'" in done.stderr
    assert "Traceback" not in done.stderr
    assert "this ran" not in done.stderr
    safe = subprocess.run(
        [sys.executable, "-P", "-m", "pipeline.all", "seed", "--help"],
        cwd=tmp_path, env=environ(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert safe.returncode == 0, safe.stderr


def test_cuda_without_cuda_is_refused(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    done = pipeline("seed", "--device", "cuda", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --device cuda: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (WRONG_WIDTH, "the model does not accept its own example input (x: float32[3, 5])"),
        (ABSENT_DIMENSION, "the dynamic dimension 'batch' is declared, but no input has it: inputs are x[3, 4]"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused_before_anything_is_made(
    text: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.py").write_text(text)
    done = pipeline("bad.py", cwd=tmp_path)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("artifacts/bad/*/checkpoint"))


@pytest.mark.parametrize(
    "backends",
    [(), ("--backends", "eager", "torchscript", "onnx")],
    ids=["in a build", "in a child's answer"],
)
@pytest.mark.slow
def test_a_full_disk_is_named_and_leaves_nothing_half_written(backends: tuple[str, ...], small_disk: Path) -> None:
    done = pipeline("seed", "--out", small_disk, *backends)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    for folder in small_disk.glob("seed/*/artifacts/*"):
        assert folder.name.startswith(".") or (folder / "artifact.json").exists()


@pytest.mark.parametrize("speaks", [True, False], ids=["as it can", "the twin"])
def test_a_terminal_that_is_not_utf8_is_shown_what_it_can(speaks: bool) -> None:
    ready = "speak_as_the_terminal_can()" if speaks else "pass"
    code = f"from pipeline.cli import speak_as_the_terminal_can; {ready}; print('\\u2605 onnx')"
    plain = environ(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, check=False)
    assert (done.returncode == 0) is speaks
    assert (done.stdout == b"? onnx\n") is speaks


def test_two_onnxruntimes_side_by_side_are_refused_by_name(tmp_path: Path) -> None:
    for name, version in (("onnxruntime", "1.32.0"), ("onnxruntime_gpu", "1.31.1"), ("onnxruntime_directml", "1.20.0")):
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    done = pipeline("seed", "--out", tmp_path / "out", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 2
    assert "onnxruntime 1.32.0 and onnxruntime-gpu" in done.stderr
    assert "pip uninstall" in done.stderr


@pytest.mark.slow
def test_without_a_compiler_two_rows_fail_for_that_reason_and_the_others_go_on(tmp_path: Path) -> None:
    done = pipeline("seed", "--out", tmp_path, "--only", "parity", CXX="no-such-compiler")
    assert done.returncode == 1
    before_training, _, after = done.stdout.partition("Epoch [10/50]")
    for backend in ("compile", "aotinductor"):
        assert (
            f"{backend} will fail: the C++ compiler no-such-compiler is missing: apt-get install g++" in before_training
        )
    for backend in ("eager", "torchscript", "exported", "onnx"):
        assert re.search(rf"parity +{backend}: pass", after)


@pytest.mark.parametrize("arguments", [["-m", "pipeline.all", "--version"], ["-m", "pipeline", "--version"]])
def test_the_version(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, env=environ())
    assert done.stdout == f"torchstone {VERSION}\n"


def test_the_list_of_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "pipeline"], capture_output=True, text=True, check=True, env=environ())
    assert "python -m pipeline.all" in done.stdout


def test_help_lists_recipes_and_common_options_quickly_without_torch() -> None:
    with within_cpu_s(1):
        done = pipeline("--help")
    assert done.returncode == 0
    for word in ("seed", "digits", "--out", "--device", "--seed", "--only", "--json", "--quiet"):
        assert word in done.stdout
    code = "import sys, pipeline.all\nfrom pipeline.cli import end\nsys.argv[1:] = ['--help']\n"
    code += "try:\n    end(pipeline.all.main)\nexcept SystemExit:\n    print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ())
    assert done.stdout.rstrip().endswith("False")


def test_the_flags_of_a_recipe_are_these(tmp_path: Path) -> None:
    """The command line is an interface: a flag that comes or goes shows here."""
    with within_cpu_s(3 * importing_torch_s()):
        done = pipeline("seed", "--help", cwd=tmp_path)
    flags = sorted(set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", done.stdout)) - {"--help"})
    assert flags == [
        "--artifacts", "--backends", "--bench.batch-rows", "--bench.block-s", "--bench.call-limit-s", "--bench.callers",
        "--bench.callers-rows", "--bench.callers-s", "--bench.calls-count", "--bench.cold-starts-count",
        "--bench.depth",
        "--bench.min-rounds-count", "--bench.processes-count", "--bench.round-budget-s",
        "--bench.rounds-count", "--bench.threads", "--bench.tie-ratio", "--bench.warmup-calls-count",
        "--bench.warmup-limit-s",
        "--bench.warmup-s", "--device", "--json", "--limits.batch-rows", "--limits.callers-count",
        "--limits.max-cold-start-s", "--limits.max-median-ms", "--limits.max-memory-mb", "--limits.max-p99-ms",
        "--limits.max-size-mb", "--limits.min-metrics", "--limits.portable",
        "--only", "--out", "--parity.allow-no-reference", "--parity.batch-rows",
        "--parity.call-limit-s", "--parity.depth", "--parity.max-peak-ratio", "--parity.max-rms-ratio",
        "--parity.max-slope-ulps", "--parity.metric-margin", "--parity.nonfinite-inputs", "--parity.rows-count",
        "--process.memory-bytes", "--process.wall-s",
        "--quiet", "--required", "--seed",
        "--train.accumulate", "--train.batch-rows", "--train.check-every-steps", "--train.clip-norm",
        "--train.compile", "--train.decay", "--train.ema-decay", "--train.epochs", "--train.fast", "--train.keep",
        "--train.log-every-steps", "--train.lr", "--train.lr-end-ratio", "--train.mlflow", "--train.momentum",
        "--train.no-deterministic", "--train.optimizer", "--train.optimizer-form", "--train.optimizer-settings",
        "--train.patience-epochs", "--train.precision", "--train.print-every-epochs", "--train.profile",
        "--train.save-every-s", "--train.save-every-steps", "--train.schedule", "--train.sharded",
        "--train.step-epochs",
        "--train.step-ratio", "--train.steps-per-epoch", "--train.tensorboard", "--train.warmup-steps",
        "--train.weight-decay", "--train.workers-count",
    ]  # fmt: skip
