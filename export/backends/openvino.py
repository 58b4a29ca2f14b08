"""OpenVINO, from the ONNX file that PyTorch's dynamo exporter makes of the traced program.

``openvino`` computes in float32; ``openvino-int8`` is quantised by NNCF with ranges from training data, and what is not
quantised computes in float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.backend import Backend, BuildInput, Loaded, LoadOptions, Threads
from export.exporters.quantize import INT8, calibration_calls, refuse_unquantized, rows_count
from export.foreign.openvino_ir import OpenVinoFormat
from export.runtimes.openvino import FILE, OpenVinoRequest, convert, quantize_model, runtime_missing, save, stored

if TYPE_CHECKING:
    from torch import nn

    from export.artifact import Artifact
    from export.contents import Contents


@dataclass(frozen=True, kw_only=True)
class OpenVino(Backend):
    """An OpenVINO model at one precision."""

    exporter: str = "dynamo"
    runtime: str = "openvino"
    file: str | None = FILE
    packages: tuple[str, ...] = ("torch", "onnx", "onnxscript", "openvino")
    modules: tuple[str, ...] = ("openvino",)
    threads: Threads = "session"
    build_cost: int = 50

    def unavailable(self, where: str) -> str | None:
        """An extra, for the CPU."""
        missing = runtime_missing(where)
        if missing is None and self.precision == INT8:
            missing = runtime_missing(where, "nncf", "openvino-int8")
        return missing

    def build(self, source: BuildInput, folder: Path) -> dict[str, str]:
        """Convert, quantise where that is asked, and save with the weights as they are."""
        from export.exporters.onnx import export_program

        calls = list(calibration_calls(source)) if self.precision == INT8 else []
        with tempfile.TemporaryDirectory(prefix="torchstone-openvino-") as scratch:
            file = Path(scratch) / "model.onnx"
            exported = export_program(source, file)
            model, facts = convert(file), {"form": "OpenVINO model"}
            if self.precision == INT8:
                model, quantized_count = quantize_model(model, calls)
                refuse_unquantized(quantized_count, "operator that NNCF quantises")
                facts = {
                    "form": "OpenVINO model, int8 by NNCF",
                    "quantized": str(quantized_count),
                    "calibration_rows": str(rows_count(calls)),
                }
            save(model, folder)
        return facts | {"from": f"{exported['form']}, opset {exported['opset']}"}

    def contents(self, artifact: Artifact, folder: Path) -> Contents | None:
        """The model's constants."""
        return stored(folder)

    def load(self, artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
        """Compiled for this processor, in float32."""
        return OpenVinoRequest(artifact, folder, options)


BACKENDS = (
    OpenVino(name="openvino", deployment_rank=30, foreign=OpenVinoFormat(main_file=FILE)),
    OpenVino(
        name="openvino-int8",
        precision=INT8,
        calibrated=True,
        deployment_rank=40,
        build_cost=70,
        packages=("torch", "onnx", "onnxscript", "openvino", "nncf"),
    ),
)
