"""One call by several clocks. Where they differ, a single figure called "latency" would mislead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from export.errors import UserError
from tests.gpu import adapter, clocks
from tests.gpu.step import Context

_GRAPH_KERNELS_COUNT = 100


def timing(context: Context) -> None:
    """The price of a launch, then a line for each recipe, artifact and batch size."""
    wait = clocks.waiter(context.device)
    with torch.inference_mode():
        _dispatch(context, wait)
        for recipe in ("seed",) if context.small else ("seed", "digits"):
            _recipe(context, recipe, wait)


def _dispatch(context: Context, wait: Callable[[], None]) -> None:
    """What the smallest kernel costs; the harness's own share is that of a call that does nothing."""
    one = torch.zeros(1, device=context.device)
    calls: dict[str, Callable[[], Any]] = {"nothing": lambda: None, "add_ on one number": lambda: one.add_(1)}
    for name, call in calls.items():
        context.row("dispatch", what=name, **_host_clocks(call, wait))
    if context.device == "cuda":
        with context.attempt("dispatch", what=f"a graph of {_GRAPH_KERNELS_COUNT} of them, per kernel") as found:
            replay = clocks.captured(lambda: [one.add_(1) for _ in range(_GRAPH_KERNELS_COUNT)])
            clocked = _host_clocks(replay, wait)
            found.update({name: value / _GRAPH_KERNELS_COUNT for name, value in clocked.items()})


def _recipe(context: Context, recipe: str, wait: Callable[[], None]) -> None:
    run = context.run_folder(recipe)
    if run is None:
        context.row("clocks", recipe=recipe, error="there is no run: the step seed-parity or digits-parity makes it")
        return
    if context.device == "cuda" and "onnx" in adapter.artifacts(run):
        with context.attempt("bound parts", recipe=recipe) as found:
            found.update(_bound_parts(adapter.load(adapter.artifacts(run)["onnx"], context.device), wait))
    for name, folder in adapter.artifacts(run).items():
        runner = None
        for rows in (1, 1024):
            with context.attempt("clocks", recipe=recipe, artifact=name, batch_rows=rows) as found:
                if runner is None:
                    runner = adapter.load(folder, context.device, lambda: adapter.trained_module(recipe, run))
                inputs = adapter.on_device(adapter.example(runner, rows), context.device)
                run_bound = adapter.bound(runner, inputs)
                found.update(_host_clocks(run_bound, wait))
                found["own_block_us"] = adapter.product_block_s(run_bound, wait) * 1e6
                if context.device == "cuda":
                    found["events_us"] = clocks.events_s(run_bound) * 1e6
                    found.update(_graph(name, run_bound, wait))


def _bound_parts(runner: Any, wait: Callable[[], None]) -> dict[str, float]:
    """Where the time of ONNX Runtime's bound call goes: microseconds of each part by itself, queued."""
    import onnxruntime

    arrays = adapter.example(runner, 1)
    loaded, tensors = runner._loaded, adapter.on_device(arrays, "cuda")
    session, stream, current = loaded._session, loaded._stream, torch.cuda.current_stream()
    binding = loaded._run_bound(list(tensors.values()))
    entered, left = torch.cuda.Event(), torch.cuda.Event()
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def waits() -> None:
        stream.wait_stream(current)
        current.wait_stream(stream)

    def waits_by_kept_events() -> None:
        entered.record(current)
        stream.wait_event(entered)
        left.record(stream)
        current.wait_event(left)

    parts: dict[str, Callable[[], Any]] = {
        "whole": adapter.bound(runner, tensors),
        "current_stream": loaded._device.current_stream,
        "waits": waits,
        "waits_by_kept_events": waits_by_kept_events,
        "run_with_iobinding": lambda: session.run_with_iobinding(binding, options),
        "run_with_iobinding_waited": lambda: session.run_with_iobinding(binding),
        "run_from_numpy": lambda: session.run(None, dict(arrays)),
    }
    return {f"{name}_us": clocks.block_s(part, wait) * 1e6 for name, part in parts.items()}


def _host_clocks(run: Callable[[], Any], wait: Callable[[], None]) -> dict[str, float]:
    return {
        "block_us": clocks.block_s(run, wait) * 1e6,
        "waited_call_us": clocks.call_s(run, wait) * 1e6,
        "launch_us": clocks.launch_s(run, wait) * 1e6,
    }


def _graph(name: str, run: Callable[[], Any], wait: Callable[[], None]) -> dict[str, object]:
    """The same call captured by torch; ONNX Runtime's work lies on a stream of its own, and is left out."""
    if name.startswith("onnx"):
        return {}
    try:
        replay = clocks.captured(run)
    except UserError as error:
        torch.cuda.synchronize()
        return {"graph_error": " ".join(str(error).split())[:200]}
    return {"graph_block_us": clocks.block_s(replay, wait) * 1e6, "graph_waited_us": clocks.call_s(replay, wait) * 1e6}
