"""AOTInductor by itself: a linear layer compiled and loaded in a fresh process, without anything of ours.

Where the loader crashes, the way there is written down: what it had loaded, and the frames of the crash.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.gpu.step import ROOT, Context, environ, python

_SETTINGS: dict[str, dict[str, object]] = {
    "defaults": {},
    "ours": {"aot_inductor.precompile_headers": False, "aot_inductor.compile_wrapper_opt_level": "O1"},
    "kernels embedded": {"aot_inductor.embed_kernel_binary": True},
}
_LOADERS = ("torch._inductor", "torch._C._aoti", "container")
_FRAMES = 25


def packages(context: Context) -> None:
    """A line for each setting and way to load it; then the frames of the first crash."""
    crashed: Path | None = None
    for name in list(_SETTINGS)[: 1 if context.small else None]:
        path = context.work / f"package-{name.replace(' ', '-')}.pt2"
        with context.attempt("packages", settings=name, what="compile") as found:
            started = time.monotonic()
            done = python("-m", "tests.gpu.packages", "compile", str(path), context.device, name)
            found["seconds"] = time.monotonic() - started
            if done.code:
                raise RuntimeError(done.cause)
        if not path.exists():
            continue
        for loader in _LOADERS:
            with context.attempt("packages", settings=name, what=loader) as found:
                done = python("-X", "faulthandler", "-m", "tests.gpu.packages", loader, str(path), context.device, name)
                found["answer"] = done.lines[-1] if done.code == 0 and done.lines else done.cause
                crashed = crashed or (path if done.code < 0 else None)
    if crashed is not None:
        _frames(context, crashed)


def _frames(context: Context, path: Path) -> None:
    """What cuda-gdb and the dynamic loader see of the crash."""
    command = [sys.executable, "-m", "tests.gpu.packages", "torch._C._aoti", str(path), context.device, "-"]
    if (debugger := shutil.which("cuda-gdb") or shutil.which("gdb")) is not None:
        asked = ["run", f"bt {_FRAMES}", "info sharedlibrary aoti", "x/3i $pc"]
        script = [part for line in asked for part in ("-ex", line)]
        for line in _said([debugger, "-batch", "-nx", *script, "--args", *command], 90)[-2 * _FRAMES :]:
            context.row("frames", line=line[:300])
    traced = _said(["env", "LD_DEBUG=libs,files", *command], 60)
    for line in [line for line in traced if "calling init" in line or "error" in line or "dlopen" in line][-12:]:
        context.row("libraries", line=line[:300])


def _said(command: list[str], limit_s: float) -> list[str]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=limit_s, cwd=ROOT,
            env=environ(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return [str(error)[:300]]
    print(done.stdout[-20_000:], done.stderr[-20_000:], flush=True)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]


def _compile(path: Path, device: str, settings: str) -> None:
    import torch

    torch.manual_seed(0)
    module, x = torch.nn.Linear(8, 4).eval().to(device), torch.randn(3, 8, device=device)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    torch._inductor.aoti_compile_and_package(
        program, package_path=str(path), inductor_configs=dict(_SETTINGS[settings])
    )


def _load(path: Path, device: str, loader: str) -> None:
    import torch

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


def _container(path: Path, device: str, x: object) -> object:
    """The library in the package by the class beneath the package's loader."""
    import tempfile
    import zipfile

    import torch

    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        (library,) = Path(folder).rglob("*.wrapper.so")
        print(f"{library.name}: {os.path.getsize(library)} bytes", flush=True)
        if device == "cuda":
            runner = torch._C._aoti.AOTIModelContainerRunnerCuda(str(library), 1, "cuda", str(library.parent))
        else:
            runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1)
        return runner.run([x])[0]


if __name__ == "__main__":
    what, file, where, configuration = sys.argv[1:]
    if what == "compile":
        _compile(Path(file), where, configuration)
    else:
        _load(Path(file), where, what)
