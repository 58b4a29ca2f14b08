"""ONNX on ONNX Runtime: PyTorch's two exporters, and int8 by ONNX Runtime's own tool.

* ``onnx``: the dynamo exporter, from the traced program; where that does not work, the older one.
* ``onnx-legacy``: the older, TorchScript-based exporter, from a trace of the module; where that fixed a branch or a
  size, from the module scripted. Deprecated upstream; kept because on some models its graph runs faster: which exporter
  is used is decided by measuring.
* ``onnx-fp16``, ``onnx-bf16``: the dynamo exporter, from the program in half precision, inputs and outputs in float32.
* ``onnx-int8``: static, per channel, ranges from training data (QDQ form). It does not compute the same function, so
  parity holds it to the recipe's metric and to its signal-to-noise ratio.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from export.backend import Backend, BuildInput, Loaded, LoadOptions, Threads
from export.device import device
from export.exporters.narrowing import BFLOAT16, FLOAT16
from export.exporters.quantize import INT8, calibration_calls, refuse_unquantized, rows_count
from export.foreign.narrowed import HALVES
from export.foreign.onnx import OnnxFormat
from export.runtimes.onnxruntime import OnnxRuntimeOptions, OnnxSession, runtime_missing
from export.runtimes.opsets import oldest_runtime

if TYPE_CHECKING:
    import torch
    from torch import nn

    from export.artifact import Artifact
    from export.contents import Contents
    from export.taps import Taps
    from export.taps.trace import Trace

FILE = "model.onnx"


@dataclass(frozen=True, kw_only=True)
class Onnx(Backend):
    """An ONNX file by one of the exporters, at one precision."""

    runtime: str = "onnxruntime"
    file: str | None = FILE
    packages: tuple[str, ...] = ("torch", "onnx", "onnxscript", "onnxruntime")
    modules: tuple[str, ...] = ("onnxruntime",)
    other_roads: bool = True
    threads: Threads = "session"
    build_cost: int = 40
    compiler: Literal["onnxruntime", "inductor"] | None = "onnxruntime"
    serving_form: Literal["onnx", "torch_aoti"] | None = "onnx"
    nonfinite_notes: tuple[tuple[str, str], ...] = (
        ("max_pool", "ONNX Runtime's MaxPool drops NaN"),
        ("argmax", "ONNX Runtime's ArgMax ignores NaN"),
        ("sign", "ONNX Runtime's Sign of NaN is NaN"),
    )
    options: type = OnnxRuntimeOptions

    def unavailable(self, where: str) -> str | None:
        """Whether an ONNX Runtime is installed, and has the device's provider, and kernels for bfloat16 where asked."""
        missing = runtime_missing(device(where))
        if missing is not None or self.precision != BFLOAT16:
            return missing
        from export.runtimes.halves import no_bfloat16

        return no_bfloat16(device(where))

    def build(self, source: BuildInput, folder: Path) -> dict[str, str]:
        """Export, check the file with ONNX's own checker, quantise where that is asked."""
        if self.precision in HALVES:
            from export.exporters.onnx import export_program

            return export_program(source, folder / FILE)
        if self.precision != INT8:
            return self._export(source, folder / FILE)
        from export.runtimes.onnxruntime import quantize_file

        calls = list(calibration_calls(source))
        with tempfile.TemporaryDirectory(prefix="torchstone-int8-") as scratch:
            plain = Path(scratch) / FILE
            facts = self._export(source, plain)
            quantized_count = quantize_file(plain, folder / FILE, calls)
        refuse_unquantized(quantized_count, "matrix product or convolution with weights")
        return facts | {
            "form": "ONNX, int8 QDQ per channel",
            "quantized": str(quantized_count),
            "calibration_rows": str(rows_count(calls)),
        }

    def _export(self, source: BuildInput, path: Path) -> dict[str, str]:
        from export.exporters.onnx_roads import PRODUCTS, PROGRAM, SCRIPT, TRACE, export_by_roads

        roads = (TRACE, SCRIPT) if self.exporter == "legacy" else (PROGRAM, PRODUCTS, SCRIPT, TRACE)
        kept = export_by_roads(source, path, roads)
        return kept.built | kept.facts

    def contents(self, artifact: Artifact, folder: Path) -> Contents | None:
        """Initializers and constants by name, and the watched settings of nodes whose module the exporter recorded."""
        from export.exporters.onnx_file import read_contents

        return read_contents(folder / FILE)

    def needs(self, artifact: Artifact, folder: Path) -> dict[str, str]:
        """Opsets and IR version of the file; the oldest ONNX Runtime that can know them, as far as its table goes."""
        import onnx

        model = onnx.load(str(folder / FILE), load_external_data=False)
        opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
        return {
            "opset": ", ".join(f"{domain} {version}" for domain, version in sorted(opsets.items())),
            "ir_version": str(model.ir_version),
            "onnxruntime": f">={oldest_runtime(opsets.get('ai.onnx', 0), model.ir_version)}",
        }

    def settings(self, before: LoadOptions, cores_count: int) -> list[LoadOptions]:
        """How far to rewrite the graph. On the CPU threads, and whether idle ones spin, which answers sooner and keeps
        cores busy that others may want; on a GPU whether a bound call is captured, and how cuDNN chooses.
        """
        now = self.runtime_options(before)
        levels: tuple[Any, ...] = ("all", "extended")
        if device(before.device).asynchronous:
            searches: tuple[Any, ...] = ("exhaustive", "heuristic", "default")
            choices = [
                self.with_runtime(before, replace(now, optimization=level, cuda_graph=graph, cudnn_search=search))
                for level in levels
                for graph in (False, True)
                for search in searches
            ]
        else:
            threads = [*super().settings(before, cores_count), before]
            choices = [
                self.with_runtime(options, replace(now, optimization=level, spinning=spinning))
                for options in sorted(threads, key=lambda options: options.threads_count)
                for level in levels
                for spinning in ((False, True) if options.threads_count > 1 else (False,))
            ]
        return [options for options in choices if options != before]

    def spins(self, options: LoadOptions) -> bool:
        """Where that was asked for, and there are threads besides the caller's own."""
        return bool(self.runtime_options(options).spinning) and options.threads_count > 1

    def trace(self, exported: torch.export.ExportedProgram) -> Trace:
        """Lowered as the dynamo exporter does it, so that nodes bear the names of the file's values."""
        from export.exporters.onnx import lowered
        from export.taps.trace import Trace

        return Trace(lowered(exported) if self._is_dynamos else exported)

    def taps(self, folder: Path, trace: Trace, options: LoadOptions) -> Taps | None:
        """The file's values, where it was made from the program, whose names the exporter keeps."""
        from export.artifact import read_artifact
        from export.exporters.onnx_roads import PROGRAM
        from export.taps.onnx import OnnxTaps

        artifact = read_artifact(folder)
        if not self._is_dynamos or artifact.is_foreign or artifact.facts.get("road", PROGRAM) != PROGRAM:
            return None
        return OnnxTaps(folder / FILE, trace, options, self.runtime_options(options))

    @property
    def _is_dynamos(self) -> bool:
        return self.exporter == "dynamo" and self.precision is None

    def load(self, artifact: Artifact, folder: Path, options: LoadOptions, module: Callable[[], nn.Module]) -> Loaded:
        """A session on the file; on a GPU a node that would compute on the CPU is an error."""
        return OnnxSession(folder / FILE, artifact.signature, options, self.runtime_options(options))


BACKENDS = (
    Onnx(name="onnx", exporter="dynamo", deployment_rank=0, foreign=OnnxFormat(main_file=FILE)),
    Onnx(name="onnx-legacy", exporter="legacy", needs_program=False, deployment_rank=10, build_cost=20),
    Onnx(name="onnx-fp16", exporter="dynamo", precision=FLOAT16, calibrated=True, deployment_rank=15),
    Onnx(name="onnx-bf16", exporter="dynamo", precision=BFLOAT16, calibrated=True, deployment_rank=16),
    Onnx(name="onnx-int8", exporter="dynamo", precision=INT8, calibrated=True, deployment_rank=20, build_cost=60),
)
