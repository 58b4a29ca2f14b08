"""ONNX Runtime on a GPU as parity ran it: float32 multiplied as float32, and never the CPU in its place unsaid."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.verifier.outcome import Refused
from pipeline.verifier.upgrade import GRAPH_OPTION, SEARCH_OPTION, runtime_option

PROVIDER = "CUDAExecutionProvider"
_NO_GRAPH = "-1"
"""The run option ``gpu_graph_id`` of a call that is not captured."""


def device_of(options: Mapping[str, Any]) -> tuple[str, int]:
    """Kind and index of ``cpu``, or of a GPU with or without its number."""
    kind, _, index = options["device"].partition(":")
    return kind, int(index or 0)


def on_gpu(options: Mapping[str, Any]) -> bool:
    """Whether the artifact was judged elsewhere than on the CPU."""
    return device_of(options)[0] != "cpu"


def provider(options: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The GPU's provider and its settings, those of ``export/runtimes/onnxruntime.py``."""
    return PROVIDER, {
        "device_id": str(device_of(options)[1]),
        "use_tf32": "0",
        f"enable_{GRAPH_OPTION}": str(int(captures(options))),
        "cudnn_conv_algo_search": runtime_option(options, SEARCH_OPTION).upper(),
    }


def captures(options: Mapping[str, Any]) -> bool:
    """Whether a bound call is captured once as a graph of the GPU, and replayed from then on."""
    return on_gpu(options) and bool(runtime_option(options, GRAPH_OPTION))


def graph_options(runtime: Any, graph: str = _NO_GRAPH) -> Any:
    """Run options of a session that captures; without a number, of a call that must not be replayed on other inputs."""
    run_options = runtime.RunOptions()
    run_options.add_run_config_entry("gpu_graph_id", graph)
    return run_options


def check_opened(runtime: Any, session: Any, options: Mapping[str, Any]) -> None:
    """Hold a session that was opened for the GPU to it: where its libraries do not load, the runtime takes the CPU.

    Raises:
        Refused: it has not the GPU's provider; with what the system says of the library.
    """
    if PROVIDER not in session.get_providers():
        libraries = Path(runtime.__file__).parent / "capi"
        raise Refused(f"this onnxruntime does not open {PROVIDER}: {_cause(libraries, device_of(options)[0])}")


def elsewhere_count(session: Any) -> int | None:
    """How many nodes the runtime gave to another provider; None where it does not say.

    Some on the CPU are no fault: the runtime puts there what computes shapes alone, which spares copies.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    return sum(
        len(subgraph.get_nodes())
        for subgraph in session.get_provider_graph_assignment_info()
        if subgraph.ep_name != PROVIDER
    )


def _cause(folder: Path, kind: str) -> str:
    """Why the provider's library does not load, which the runtime logs and does not raise."""
    library = next(folder.glob(f"*onnxruntime_providers_{kind}.*"), None)
    if library is None:
        return "it is a build without it, onnxruntime-gpu has it"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return "its libraries load, so there is no GPU that it can use"
