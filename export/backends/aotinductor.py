"""AOTInductor: the program compiled ahead of time into one package that runs without Python's tracing or dispatch.

The package is loaded by the C++ loader beneath ``torch._inductor.aoti_load_package``: 2-3 ms instead of 2-2.5 s, which
is the time to import Inductor, and a third of the time per call for tiny models. A package checks nothing of its
inputs; the driver does, which also hands it contiguous memory (compiled code ignores strides).
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.backend import TorchLoaded
from export.environment import missing_compiler
from export.exporters.inductor import prepare

if TYPE_CHECKING:
    import torch
    from torch import nn

    from export.artifact import Artifact
    from export.backend import BuildInput, Loaded, LoadOptions, Threads
    from export.contents import Contents

SOURCE_FREE = True
DEVICE_BOUND = True
NEEDS_PROGRAM = True
PACKAGES = ("torch",)
MODULES = ("torch",)
THREADS: Threads = "build"
FILE = "model.pt2"
_SETTINGS = {
    # Of 24 s from nothing for a 17-parameter model, 8 s went into precompiling headers that are used once.
    "aot_inductor.precompile_headers": False,
    # O0 builds one of ten seconds faster, and a call of one row then takes twice as long (docs/measured/inductor.md).
    "aot_inductor.compile_wrapper_opt_level": "O1",
}


def unavailable(device: str) -> str | None:
    """The package is C++ compiled here, for the CPU and as the wrapper of CUDA kernels."""
    return missing_compiler()


def build(source: BuildInput, folder: Path) -> dict[str, str]:
    """Compile the program for the device into ``model.pt2``."""
    import torch._inductor

    from export.program import load_exported, on_device, quiet

    program = on_device(load_exported(source.program_file), source.device)
    with tempfile.TemporaryDirectory(prefix="torchstone-aotinductor-") as cache, quiet():
        prepare(Path(cache))
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(folder / FILE), inductor_configs=dict(_SETTINGS)
        )
    return {"form": "AOTInductor package"}


def contents(artifact: Artifact, folder: Path) -> Contents | None:
    """The constants that the compiled library holds, as its own runtime hands them out; settings are compiled away."""
    import torch

    from export.contents import Contents

    kind = "AOTIModelContainerRunnerCpu" if artifact.device == "cpu" else "AOTIModelContainerRunnerCuda"
    runner = getattr(getattr(torch._C, "_aoti", None), kind, None)
    if runner is None or not hasattr(runner, "extract_constants_map"):
        return Contents(how="package (this torch cannot read its constants)")
    with tempfile.TemporaryDirectory(prefix="torchstone-aotinductor-") as unpacked:
        with zipfile.ZipFile(folder / FILE) as archive:
            archive.extractall(unpacked)
        (library,) = Path(unpacked).rglob("*.wrapper.so")
        opened = runner(str(library), 1)  # owns the memory of its constants
        constants = opened.extract_constants_map(False)
        weights = {name: tensor.detach().cpu().clone().numpy() for name, tensor in constants.items()}
    return Contents(how="compiled library's constants", weights=weights)


def load(artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
    """Open the package with flat tensors in and out."""
    run = open_package(folder / FILE, options.device)

    def call(*tensors: torch.Tensor) -> Sequence[torch.Tensor]:
        return run(list(tensors))

    return TorchLoaded(call, options)


def open_package(path: Path, device: str) -> Callable[[list[Any]], Sequence[Any]]:
    """The package's flat call: PyTorch's C++ loader where it has the shape known here, else its public Python one."""
    import torch

    loader = getattr(getattr(torch._C, "_aoti", None), "AOTIModelPackageLoader", None)
    if loader is not None and hasattr(loader, "boxed_run"):
        run: Callable[[list[Any]], Sequence[Any]] = loader(str(path), "model", False, 1, _index(device)).boxed_run
        return run
    import torch._inductor

    package = torch._inductor.aoti_load_package(str(path))
    return lambda tensors: package(*tensors)


def _index(device: str) -> int:
    """The loader's device index: -1 is the CPU."""
    return 0 if device == "cuda" else -1
