"""ONNX Runtime's provider for a GPU is there when it loads, not when the wheel lists it; else why is said."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch

from export import registry
from export.device import HOST, device
from export.runtimes import provider_library
from export.runtimes.needed_libraries import needed_libraries
from export.runtimes.onnxruntime import runtime_missing
from export.runtimes.provider_library import unloadable
from tests.conftest import environ

CUDA = device("cuda")
CAPI = Path(onnxruntime.__file__).parent / "capi"
REAL = CAPI / "libonnxruntime_providers_cuda.so"
SHARED = CAPI / "libonnxruntime_providers_shared.so"
TOOLKIT = provider_library._toolkit(CUDA)
needs_wheel = pytest.mark.skipif(not REAL.is_file() or TOOLKIT is None, reason="onnxruntime is not the CUDA build")


@needs_wheel
@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch brings CUDA's libraries")
def test_the_real_wheel_without_cuda_tells_what_the_loader_says() -> None:
    """It lists its provider all the same."""
    assert CUDA.provider in onnxruntime.get_available_providers()
    reason = runtime_missing(CUDA)
    assert reason is not None
    assert "cannot open shared object file" in reason
    assert f"is built for CUDA {TOOLKIT}, torch {torch.__version__} for none" in reason
    assert f"Install a torch that is built for CUDA {TOOLKIT and TOOLKIT.partition('.')[0]}" in reason
    assert registry.get("onnx").unavailable("cuda") == reason
    assert runtime_missing(HOST) is None


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package whose provider loads: the library that has no needs stands in for it."""
    (tmp_path / "capi").mkdir()
    for name in (SHARED.name, REAL.name):
        shutil.copy(SHARED, tmp_path / "capi" / name)
    return tmp_path


@needs_wheel
@pytest.mark.parametrize(
    ("torchs", "said"),
    [
        (TOOLKIT, None),
        ("12.8", "they would share one cuDNN"),
        ("12.8", "or this runtime built for CUDA 12"),
        (None, "for none; they would share"),
    ],
)
def test_a_provider_that_loads_must_be_built_for_torchs_toolkit(
    torchs: str | None, said: str | None, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", torchs)
    reason = unloadable(package, "onnxruntime-gpu 1.0", CUDA)
    assert (said is None) == (reason is None)
    assert said is None or said in (reason or "")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("libcuda.so.1: cannot open shared object file: No such file or directory", "Install NVIDIA's driver"),
        ("libcudart.so.13: cannot open shared object file: No such file or directory", "Install torch anew"),
    ],
)
def test_the_remedy_is_for_what_is_missing(
    error: str, remedy: str, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(provider_library, "_toolkit", lambda where: "13.1")
    monkeypatch.setattr(provider_library, "_load_error", lambda library: error)
    reason = unloadable(package, "onnxruntime-gpu 1.0", CUDA)
    assert reason is not None
    assert error in reason
    assert remedy in reason


def test_without_a_library_nothing_is_said(tmp_path: Path) -> None:
    """Of a build that has its provider within, the session itself tells."""
    assert unloadable(tmp_path, "onnxruntime-gpu 1.0", CUDA) is None


def test_a_library_that_is_none_is_refused_in_the_loaders_words(package: Path) -> None:
    (package / "capi" / REAL.name).write_bytes(b"not a library")
    reason = unloadable(package, "onnxruntime-gpu 1.0", CUDA)
    assert reason is not None
    assert "does not load" in reason
    assert REAL.name in reason


_PROVIDER = """
void **Provider_GetHost(void);
void *table;
__attribute__((constructor)) static void initialise(void) { table = *Provider_GetHost(); }
"""
"""Where the real library crashes as well: no session has set the host yet."""


@needs_wheel
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_provider_whose_libraries_are_there_is_not_initialised_by_the_question(package: Path) -> None:
    """The runtime gives its provider a table first; without it the provider ends the process."""
    (package / "provider.c").write_text(_PROVIDER)
    library = package / "capi" / REAL.name
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", library, package / "provider.c", f"-L{library.parent}", f"-l:{SHARED.name}"],
        check=True,
    )
    assert needed_libraries(library)[0] == SHARED.name
    question = (
        "import sys; from pathlib import Path; from export.device import device; "
        "from export.runtimes.provider_library import _load_error; "
        f"print(_load_error(Path({str(library)!r})))"
    )
    load = f"import ctypes; ctypes.CDLL({str(package / 'capi' / SHARED.name)!r}, mode=ctypes.RTLD_GLOBAL); "
    load += f"ctypes.CDLL({str(library)!r})"
    asked, loaded = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ())
        for code in (question, load)
    )
    assert (asked.returncode, asked.stdout) == (0, "None\n"), asked.stderr
    assert loaded.returncode < 0, "what the question must not do"


@needs_wheel
def test_the_real_provider_is_linked_against_the_toolkit_and_the_driver() -> None:
    needed = needed_libraries(REAL)
    assert {f"libcudart.so.{TOOLKIT and TOOLKIT.partition('.')[0]}", "libcuda.so.1", "libc.so.6"} <= set(needed)
