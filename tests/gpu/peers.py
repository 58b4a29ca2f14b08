"""The project's artifacts beside what the first lines of other tools' documentation give on the same device.

Every call is waited for, in random turns: the latency that a caller sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.gpu import adapter, clocks
from tests.gpu.step import Context, first_line

_ROWS = (1, 1024)
_EXACT = 1e-4
Call = Callable[[], Any]


def peers(context: Context) -> None:
    """A line for each recipe, batch size and call."""
    for recipe in ("seed",) if context.small else ("seed", "digits"):
        run = context.run_folder(recipe)
        if run is None:
            context.row("calls", recipe=recipe, error="there is no run: seed-parity or digits-parity makes it")
            continue
        with torch.inference_mode():
            _recipe(context, recipe, run)


def _recipe(context: Context, recipe: str, run: Path) -> None:
    module = adapter.trained_module(recipe, run).to(context.device)
    runners = {}
    for name, load in _loads(context, recipe, run).items():
        try:
            runners[name] = load()
        except Exception as error:  # noqa: BLE001 - an artifact that does not load is a finding
            context.row("calls", recipe=recipe, call=name, error=first_line(error))
    for rows in _ROWS[:1] if context.small else _ROWS:
        torch._dynamo.reset()  # or a second size would make what is compiled here dynamic
        arrays = adapter.example(next(iter(runners.values())), rows)
        inputs = adapter.on_device(arrays, context.device)
        makes = {name: _bound(runner, inputs) for name, runner in runners.items()}
        makes |= {f"{name}, from NumPy": _checked(runner, arrays) for name, runner in runners.items()}
        makes |= _defaults(context.device, run, module, inputs, arrays)
        _compare(context, makes, module(*inputs.values()), recipe=recipe, batch_rows=rows)


def _loads(context: Context, recipe: str, run: Path) -> dict[str, Callable[[], Any]]:
    def load(folder: Path, *, cuda_graph: bool = False) -> Callable[[], Any]:
        return lambda: adapter.load(
            folder, context.device, lambda: adapter.trained_module(recipe, run), cuda_graph=cuda_graph
        )

    found = {f"here: {name}": load(folder) for name, folder in adapter.artifacts(run).items()}
    if context.device == "cuda":
        found |= {
            f"here: {name}, cuda_graph": load(folder, cuda_graph=True)
            for name, folder in adapter.artifacts(run).items()
            if name != "eager"
        }
    return found


def _compare(
    context: Context, makes: Mapping[str, Callable[[], Call]], truth: Any, *, recipe: str, batch_rows: int
) -> None:
    """Make every call, see what it answers, time it, and write a line about it."""
    expected = _first(truth)
    calls: dict[str, Call] = {}
    errors: dict[str, float | None] = {}
    for name, make in makes.items():
        try:
            call = make()
            errors[name] = _error(call(), expected)
            calls[name] = call
        except Exception as error:  # noqa: BLE001 - a call that does not work here is a finding
            context.row("calls", recipe=recipe, batch_rows=batch_rows, call=name, error=first_line(error))
    medians = clocks.in_turns(calls, clocks.waiter(context.device), 5 if context.small else 30)
    best = min(seconds for name, seconds in medians.items() if name.startswith("here: "))
    for name in sorted(medians, key=lambda one: medians[one]):
        off = errors[name]
        context.row(
            "calls",
            recipe=recipe,
            batch_rows=batch_rows,
            call=name,
            waited_us=medians[name] * 1e6,
            to_the_best_here=medians[name] / best,
            relative_error=off,
            exact=None if off is None else off <= _EXACT,
        )


def _bound(runner: Any, inputs: Mapping[str, torch.Tensor]) -> Callable[[], Call]:
    return lambda: adapter.bound(runner, inputs)


def _checked(runner: Any, arrays: adapter.Arrays) -> Callable[[], Call]:
    return lambda: lambda: runner(arrays)


def _defaults(
    device: str, run: Path, module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], arrays: adapter.Arrays
) -> dict[str, Callable[[], Call]]:
    """How to make each call."""
    tensors = tuple(inputs.values())

    def compiled(**settings: Any) -> Call:
        function = torch.compile(module, **settings)
        for _ in range(3):  # the first calls of reduce-overhead warm up and record
            function(*tensors)
        return lambda: function(*tensors)

    def session() -> Call:
        opened = _session(device, run)
        return lambda: opened.run(None, dict(arrays))

    def binding() -> Call:
        opened = _session(device, run)
        bound = opened.io_binding()
        for name, tensor in inputs.items():
            bound.bind_input(name, device, 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        for output in opened.get_outputs():
            bound.bind_output(output.name, device, 0)

        def call() -> Any:
            opened.run_with_iobinding(bound)
            return bound

        return call

    found: dict[str, Callable[[], Call]] = {
        "eager module": lambda: lambda: module(*tensors),
        "onnxruntime session.run, defaults": session,
        "onnxruntime io_binding, defaults": binding,
    }
    if device == "cuda":
        found |= {
            "torch.compile": compiled,
            "torch.compile, reduce-overhead": lambda: compiled(mode="reduce-overhead"),
            "torch.cuda.graph around eager": lambda: clocks.captured(lambda: module(*tensors)),
        }
    return found


def _session(device: str, run: Path) -> Any:
    import onnxruntime

    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"] if device == "cuda" else ["CPUExecutionProvider"]
    opened = onnxruntime.InferenceSession(str(run / "artifacts" / "onnx" / "model.onnx"), providers=wanted)
    if opened.get_providers()[0] != wanted[0]:
        raise RuntimeError(f"the session fell back to {opened.get_providers()}")
    return opened


def _first(answer: Any) -> Any:
    """The first output as an array on the host; None of a graph's replay, which returns nothing."""
    if hasattr(answer, "get_outputs"):
        answer = answer.get_outputs()
    while isinstance(answer, list | tuple):
        answer = answer[0]
    if isinstance(answer, Mapping):
        answer = next(iter(answer.values()))
    if answer is None:
        return None
    if isinstance(answer, torch.Tensor):
        return answer.detach().cpu().double().numpy()
    return np.asarray(answer.numpy() if hasattr(answer, "numpy") else answer, np.float64)


def _error(answer: Any, expected: Any) -> float | None:
    """How far an answer is from eager's; None where there is none to look at."""
    first = _first(answer)
    return None if first is None else float(np.linalg.norm(first - expected) / np.linalg.norm(expected))
