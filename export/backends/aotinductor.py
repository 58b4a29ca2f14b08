"""AOTInductor: the program compiled ahead of time into one package that runs without Python's tracing or dispatch.

The package is loaded by the C++ loader beneath ``torch._inductor.aoti_load_package``: 2-3 ms instead of 2-2.5 s, which
is the time to import Inductor, and a third of the time per call for tiny models. A package checks nothing of its
inputs; the driver does, which also hands it contiguous memory (compiled code ignores strides).
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from export.arrays import to_numpy
from export.backend import BuildInput, Loaded, LoadOptions, Threads
from export.device import Device, device
from export.environment import missing_compiler, version
from export.errors import UserError
from export.exporters.inductor import check_runtime, prepare, runtime_libraries
from export.exporters.narrowing import BFLOAT16, FLOAT16
from export.foreign.graphs import PackageFormat
from export.runtimes.torch import TorchBackend

if TYPE_CHECKING:
    import torch
    from torch import nn

    from export.artifact import Artifact
    from export.contents import Contents

FILE = "model.pt2"
_SETTINGS: dict[str, object] = {
    # Of 24 s from nothing for a 17-parameter model, 8 s went into precompiling headers that are used once.
    "aot_inductor.precompile_headers": False,
    # O0 builds one of ten seconds faster, and a call of one row then takes twice as long (docs/measured/inductor.md).
    "aot_inductor.compile_wrapper_opt_level": "O1",
}


@dataclass(frozen=True, kw_only=True)
class AotInductor(TorchBackend):
    """The package, opened by PyTorch's own loader."""

    exporter: str = "aotinductor"
    file: str | None = FILE
    device_bound: bool = True
    threads: Threads = "build"
    build_cost: int = 150
    deployment_rank: int = 50
    compiler: Literal["onnxruntime", "inductor"] | None = "inductor"
    serving_form: Literal["onnx", "torch_aoti"] | None = "torch_aoti"

    def unavailable(self, where: str) -> str | None:
        """The package is C++ compiled here, for the CPU and as the wrapper of a GPU's kernels."""
        return missing_compiler() or device(where).missing_toolkit()

    def build(self, source: BuildInput, folder: Path) -> dict[str, str]:
        """Compile the program for the device into ``model.pt2``.

        Raises:
            UserError: a recurrent layer takes any number of steps, and would be compiled for the example's: on the CPU
                Inductor takes an LSTM as it is, and unrolls the others (https://github.com/pytorch/pytorch/issues/185135).
        """
        import torch._inductor

        from export.open_layers import LSTM, open_length
        from export.program import load_exported, on_device, quiet

        where = device(source.device)
        program = on_device(load_exported(source.program_file), where)
        if (layer := open_length(program, besides="" if where.asynchronous else LSTM)) is not None:
            raise UserError(
                f"AOTInductor unrolls {layer} for the number of steps that its example has: give the length one size "
                "in the signature, or take an LSTM on the CPU; onnx, exported and torchscript leave it open"
            )
        with tempfile.TemporaryDirectory(prefix="torchstone-aotinductor-") as cache, quiet():
            prepare(Path(cache))
            torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(folder / FILE),
                inductor_configs=_SETTINGS | {"aot_inductor.custom_op_libs": runtime_libraries()},
            )
            if sys.platform == "linux":
                check_runtime(_unpack(folder / FILE, Path(cache)))
        return {"form": "AOTInductor package"}

    def contents(self, artifact: Artifact, folder: Path) -> Contents | None:
        """The constants that the compiled library holds, as its own runtime hands them out; settings are gone."""
        import torch

        from export.contents import Contents

        kind = f"AOTIModelContainerRunner{device(artifact.device).kind.title()}"
        runner = getattr(getattr(torch._C, "_aoti", None), kind, None)
        if runner is None or not hasattr(runner, "extract_constants_map"):
            return Contents(how="package (this torch cannot read its constants)")
        with tempfile.TemporaryDirectory(prefix="torchstone-aotinductor-") as unpacked:
            library = _unpack(folder / FILE, Path(unpacked))
            opened = runner(str(library), 1)  # owns the memory of its constants
            constants = opened.extract_constants_map(False)
            weights = {name: to_numpy(tensor.detach().cpu().clone()) for name, tensor in constants.items()}
        return Contents(how="compiled library's constants", weights=weights)

    def needs(self, artifact: Artifact, folder: Path) -> dict[str, str]:
        """The very minor version of torch; what its code was compiled for, the package says itself."""
        return {"torch": f"=={(version('torch') or '').partition('+')[0]}"}

    def load(self, artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
        """Open the package with flat tensors in and out."""
        alone = self.captures(options)
        run, in_turn = open_package(folder / FILE, device(options.device), alone=alone), threading.Lock()

        def call(*tensors: torch.Tensor) -> Sequence[torch.Tensor]:
            return run(list(tensors))

        def call_alone(*tensors: torch.Tensor) -> Sequence[torch.Tensor]:
            with in_turn:
                return call(*tensors)

        return self.session(call_alone if alone else call, options)


def open_package(path: Path, where: Device, *, alone: bool = False) -> Callable[[list[Any]], Sequence[Any]]:
    """The package's flat call: PyTorch's C++ loader where it has the shape known here, else its public Python one.

    ``alone``: one call at a time, without the events that keep several apart and that no CUDA graph can hold.
    """
    import torch

    index = where.index if where.asynchronous else -1  # the loader's number of the CPU
    loader = getattr(getattr(torch._C, "_aoti", None), "AOTIModelPackageLoader", None)
    if loader is not None and hasattr(loader, "boxed_run"):
        run: Callable[[list[Any]], Sequence[Any]] = loader(str(path), "model", alone, 1, index).boxed_run
        return run
    import torch._inductor

    package = torch._inductor.aoti_load_package(str(path), run_single_threaded=alone, device_index=index)
    return lambda tensors: package(*tensors)


def _unpack(package: Path, folder: Path) -> Path:
    """Write the package's files as torch's own reader takes them, which its loader has too; returns the library."""
    from torch.export.pt2_archive import PT2ArchiveReader, constants

    reader = PT2ArchiveReader(str(package))
    for member in reader.get_file_names():
        if member.startswith(f"{constants.AOTINDUCTOR_DIR}model/"):
            (folder / Path(member).name).write_bytes(reader.read_bytes(member))
    (library,) = folder.glob("*.wrapper.so")
    return library


BACKENDS = (
    AotInductor(name="aotinductor", foreign=PackageFormat(main_file=FILE)),
    AotInductor(name="aotinductor-bf16", precision=BFLOAT16, calibrated=True, deployment_rank=55),
    AotInductor(name="aotinductor-fp16", precision=FLOAT16, calibrated=True, deployment_rank=56),
)
