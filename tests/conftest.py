"""What tests share: one built run, and the pipeline as a person starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from filelock import FileLock

from export.artifact import Artifact, open_artifact
from export.build import BuildJob, CaptureJob, build, capture
from export.completion import complete
from export.environment import environment, machine
from tests.models import SIGNATURES, make, source

ROOT = Path(__file__).resolve().parents[1]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore Ctrl-C


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow too")


_LONGEST = (
    "test_all", "test_interrupted", "test_backend", "test_ship", "test_cli", "test_plugin", "test_verify",
    "test_locate",
)  # fmt: skip
"""Files that take minutes go first, so that no process of pytest-xdist is left with one of them at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    items.sort(key=lambda item: _LONGEST.index(item.path.stem) if item.path.stem in _LONGEST else len(_LONGEST))
    slow = pytest.mark.skip(reason="slow: make test-slow runs it")
    gpu = pytest.mark.skip(reason="gpu: no usable CUDA device here")
    for item in items:
        if "slow" in item.keywords and not config.getoption("--run-slow"):
            item.add_marker(slow)
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(gpu)


@pytest.fixture(autouse=True)
def _threads_restored() -> Iterator[None]:
    """Torch's thread count is the process's: a test that sets it must not change another's rounding."""
    import torch

    threads_count = torch.get_num_threads()
    yield
    torch.set_num_threads(threads_count)


@pytest.fixture(autouse=True)
def _own_machine() -> Iterator[None]:
    """What the machine is is read once in a process: not from the stand-in for a driver that an earlier test had."""
    yield
    environment.cache_clear()
    machine.cache_clear()


def pipeline(*arguments: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m pipeline.all`` as a person starts it, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline.all", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environ(**environment),
    )


@contextmanager
def within_cpu_s(limit_s: float) -> Iterator[None]:
    """What is done inside, in this process and in children that end inside, must not cost more processor time.

    Not the time that passes: other work on the machine lengthens that. tests/measure/speed.py holds the limits on that.
    """
    before = os.times()
    yield
    after = os.times()
    taken_s = sum(after[:4]) - sum(before[:4])
    assert taken_s < limit_s, f"{taken_s:.2f} s of processor time, {limit_s} are allowed"


def importing_torch_s() -> float:
    """Processor time that ``import torch`` takes here and now: machines differ, and a machine by the hour."""
    before = os.times()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def environ(**more: str) -> dict[str, str]:
    """This process's environment with our packages importable from any folder."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return mine | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"} | more


SHORT = (
    "--bench.processes-count", "2", "--bench.rounds-count", "8", "--bench.warmup-s", "0.02",
    "--bench.callers-s", "0.02", "--bench.calls-count", "100",
)  # fmt: skip
BUILT = ("seed", *SHORT, "--bench.cold-starts-count", "1")
"""The run that all tests share: the default recipe, its costly measurements short."""


def shared(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder for all processes of pytest-xdist, each of which has one of its own in one that they share."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one whole run of the default recipe, shared by all tests: copy before you change it."""
    out = shared(tmp_path_factory, "built")
    with FileLock(f"{out}.lock"):
        if not (out / "seed" / "latest").exists():
            done = pipeline(*BUILT, "--out", out)
            assert done.returncode == 0, done.stdout + done.stderr
    return (out / "seed" / "latest").resolve()


class Builder(Protocol):
    """Builds one backend's artifact of a model of tests/models.py for a device, once."""

    def __call__(self, model: str, backend: str, device: str = "cpu") -> tuple[Path, Artifact]: ...


@pytest.fixture(scope="session")
def build_model(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """``build_model(model, backend)``: one backend's artifact of a model of tests/models.py, made once."""
    base = tmp_path_factory.mktemp("models")
    known: dict[tuple[str, str, str], tuple[Path, Artifact]] = {}

    def built(model: str, backend: str, device: str = "cpu") -> tuple[Path, Artifact]:
        if (model, backend, device) not in known:
            known[model, backend, device] = _build(base / device / model, model, backend, device)
        return known[model, backend, device]

    return built


def _build(base: Path, model: str, backend: str, device: str = "cpu") -> tuple[Path, Artifact]:
    signature = complete(make(model), SIGNATURES[model], seed=0)
    program, folder = base / "program", base / backend
    if not program.exists():
        program.mkdir(parents=True)
        job = CaptureJob(
            source=source(model), signature=signature, seed=0, key="k", checkpoint_sha256="c", folder=str(program)
        )
        capture(job)
    folder.mkdir()
    build(
        BuildJob(
            backend=backend,
            device=device,
            source=source(model),
            signature=signature,
            seed=0,
            key="k",
            checkpoint_sha256="c",
            program=str(program),
            folder=str(folder),
        )
    )
    return folder, open_artifact(folder)
