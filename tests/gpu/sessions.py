"""ONNX Runtime by itself: what opens on which provider, and what then runs where."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.gpu.models import Chain, Cnn, Mlp
from tests.gpu.step import Context

_SHAPES: dict[str, tuple[type[nn.Module], tuple[int, ...], dict[int, str]]] = {
    "mlp": (Mlp, (3, 16), {0: "batch"}),
    "cnn": (Cnn, (3, 3, 32, 32), {0: "batch"}),
    "shape chain": (Chain, (3, 5, 8), {0: "batch", 1: "length"}),
}


def sessions(context: Context) -> None:
    """A line for each model, exporter and right to fall back."""
    for name in _SHAPES:
        for exporter in ("dynamo",) if context.small else ("dynamo", "legacy"):
            try:
                model = exported(name, exporter)
            except Exception as error:  # noqa: BLE001 - whatever an exporter raises is the finding
                context.row("sessions", model=name, exporter=exporter, error=f"export: {error}"[:300])
                continue
            for refused in (False, True) if context.device == "cuda" else (False,):
                with context.attempt(
                    "sessions", model=name, exporter=exporter, cpu_fallback="refused" if refused else "allowed"
                ) as found:
                    _open(context, name, model, refused, found)


def exported(name: str, exporter: str) -> bytes:
    """A model of this file as ONNX, every dimension that may be dynamic declared so."""
    kind, shape, dynamic = _SHAPES[name]
    torch.manual_seed(0)
    module, x = kind().eval(), torch.randn(*shape)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = Path(folder) / "model.onnx"
        if exporter == "legacy":
            torch.onnx.export(
                module, (x,), target, dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes={"x": dynamic}
            )
        else:
            sizes = {axis: torch.export.Dim(symbol, min=1, max=4096) for axis, symbol in dynamic.items()}
            program = torch.onnx.export(
                module, (x,), dynamo=True, input_names=["x"], output_names=["y"], dynamic_shapes={"x": sizes},
                verbose=False,
            )  # fmt: skip
            assert program is not None
            program.save(target)
        return target.read_bytes()


def _open(context: Context, name: str, model: bytes, refused: bool, found: dict[str, object]) -> None:
    import onnx
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if refused:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    rewritten = context.work / "rewritten.onnx"
    settings.optimized_model_filepath = str(rewritten)
    started = time.monotonic()
    session = onnxruntime.InferenceSession(
        model, settings, providers=providers(context.device, fallback=not refused), enable_fallback=0
    )
    found["open_s"] = time.monotonic() - started
    found.update(_placed(session))
    found["memcpy_count"] = sum(node.op_type.startswith("Memcpy") for node in onnx.load(str(rewritten)).graph.node)
    x = np.random.default_rng(0).standard_normal((7, *_SHAPES[name][1][1:]), np.float32)
    if "length" in _SHAPES[name][2].values():
        x = np.concatenate([x, x], axis=1)
    started = time.monotonic()
    (answer,) = session.run(None, {"x": x})
    found["first_call_s"] = time.monotonic() - started
    torch.manual_seed(0)
    with torch.no_grad():
        expected = _SHAPES[name][0]().eval().double()(torch.from_numpy(x).double()).numpy()
    found["relative_error"] = float(np.linalg.norm(answer - expected) / np.linalg.norm(expected))


def providers(device: str, *, fallback: bool = False, **settings: str) -> list[Any]:
    """CUDA with strict float32 unless told otherwise, and the CPU behind it if it may fall back."""
    if device == "cpu":
        return ["CPUExecutionProvider"]
    first = ("CUDAExecutionProvider", {"use_tf32": "0"} | settings)
    return [first, "CPUExecutionProvider"] if fallback else [first]


def _placed(session: Any) -> dict[str, object]:
    """How many nodes each provider has, and which kinds the CPU has."""
    nodes: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        kinds = nodes.setdefault(part.ep_name.removesuffix("ExecutionProvider"), Counter())
        kinds.update(str(getattr(node, "op_type", "?")) for node in part.get_nodes())
    return {
        "nodes": ", ".join(f"{provider} {kinds.total()}" for provider, kinds in sorted(nodes.items())),
        "on_cpu": ", ".join(sorted(nodes.get("CPU", {}))),
    }


def save(context: Context, name: str) -> Path:
    """The dynamo exporter's file of a model, made once."""
    path = context.work / f"{name.replace(' ', '-')}.onnx"
    if not path.exists():
        path.write_bytes(exported(name, "dynamo"))
    return path
