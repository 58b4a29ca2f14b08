"""AOTInductor by itself: a linear layer compiled and loaded in a fresh process, with nothing of ours but what to link.

Where a loader crashes, its frames are written down, as torch's own handler of signals sees them.
"""

from __future__ import annotations

import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from export.exporters.inductor import runtime_libraries
from export.runtimes.needed_libraries import needed_libraries
from tests.gpu.step import Context, python

_SETTINGS: dict[str, object] = {"aot_inductor.precompile_headers": False}
"""The headers are used once here; nothing of the code depends on it."""
_LOADERS = ("torch._inductor", "torch._C._aoti", "container")
_FRAMES = 25


def packages(context: Context) -> None:
    """What the package is linked to, and a line for each way to load it."""
    path = context.work / "package.pt2"
    started = time.monotonic()
    done = python("-m", "tests.gpu.packages", "compile", str(path), context.device)
    context.put("compile_s", time.monotonic() - started)
    if done.code:
        raise RuntimeError(done.cause)
    context.row("libraries", needed=done.lines[-1])
    for loader in _LOADERS:
        done = python("-m", "tests.gpu.packages", loader, str(path), context.device)
        context.row("packages", loader=loader, answer=done.lines[-1] if done.code == 0 else f"exit code {done.code}")
        if done.code < 0:
            for line in [line for line in done.lines if "frame #" in line][:_FRAMES]:
                context.row("native frames", line=line[:300])


def _compile(path: Path, device: str) -> None:
    import torch

    torch.manual_seed(0)
    module, x = torch.nn.Linear(8, 4).eval().to(device), torch.randn(3, 8, device=device)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    settings = _SETTINGS | {"aot_inductor.custom_op_libs": runtime_libraries()}
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)
    with tempfile.TemporaryDirectory() as folder:
        print(" ".join(needed_libraries(_library(path, Path(folder)))), flush=True)


def _load(path: Path, device: str, loader: str) -> None:
    import torch

    torch._C._set_print_stack_traces_on_fatal_signal(True)
    x = torch.ones(3, 8, device=device)
    torch.manual_seed(0)
    expected = torch.nn.Linear(8, 4).eval().to(device)(x)
    index = 0 if device == "cuda" else -1
    if loader == "torch._inductor":
        import torch._inductor

        answer = torch._inductor.aoti_load_package(str(path))(x)
    elif loader == "torch._C._aoti":
        answer = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, index).boxed_run([x])[0]
    else:
        answer = _container(path, device, x)
    off = float((answer - expected).abs().max())
    print(f"farthest off {off:.3g}", flush=True)


def _container(path: Path, device: str, x: Any) -> Any:
    """The library in the package by the class beneath the package's loader."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        library = _library(path, Path(folder))
        kinds: Any = torch._C._aoti
        if device == "cuda":
            runner = kinds.AOTIModelContainerRunnerCuda(str(library), 1, "cuda", str(library.parent))
        else:
            runner = kinds.AOTIModelContainerRunnerCpu(str(library), 1)
        return runner.run([x])[0]


def _library(path: Path, folder: Path) -> Path:
    """The package unpacked into ``folder``; its shared library."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    (library,) = folder.rglob("*.wrapper.so")
    return library


if __name__ == "__main__":
    what, file, where = sys.argv[1:]
    if what == "compile":
        _compile(Path(file), where)
    else:
        _load(Path(file), where, what)
