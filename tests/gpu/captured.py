"""ONNX Runtime with ``enable_cuda_graph``: a captured call is replayed on the memory that it was captured with.

So an answer can belong to an earlier input, and nothing says so. Each way of calling is asked with a new input.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.gpu.sessions import providers, save
from tests.gpu.step import Context, first_line

_ROWS = 8


def captured(context: Context) -> None:
    """A line for each way of calling."""
    model = str(save(context, "mlp"))
    for name, way in _WAYS.items():
        with context.attempt("ways to call", way=name) as found:
            found.update(way(model))


def _session(model: str) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    chosen = providers("cuda", enable_cuda_graph="1")
    return onnxruntime.InferenceSession(model, settings, providers=chosen, enable_fallback=0)


def _options(graph: str | None) -> Any:
    import onnxruntime

    options = onnxruntime.RunOptions()
    if graph is not None:
        options.add_run_config_entry("gpu_graph_id", graph)
    return options


def _input(seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal((_ROWS, 16), np.float32)


def _right(model: str, answers: list[Any], first_seed: int = 0) -> dict[str, object]:
    """Whether answer *i* belongs to input ``first_seed + i``, by the CPU's."""
    import onnxruntime

    truth = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    right = [
        bool(np.allclose(answer, truth.run(None, {"x": _input(first_seed + index)})[0], atol=1e-4))
        for index, answer in enumerate(answers)
    ]
    return {"right": all(right), "each_answer": ["right" if one else "wrong" for one in right]}


def _plain(graph: str | None) -> Callable[[str], dict[str, object]]:
    """``session.run`` with arrays, five inputs in turn."""

    def way(model: str) -> dict[str, object]:
        session = _session(model)
        return _right(model, [session.run(None, {"x": _input(seed)}, _options(graph))[0] for seed in range(5)])

    return way


class _Bound:
    """Input and output in fixed device memory."""

    def __init__(self, session: Any, seed: int, graph: str) -> None:
        import onnxruntime

        self._session, self._options = session, _options(graph)
        self._input = onnxruntime.OrtValue.ortvalue_from_numpy(_input(seed), "cuda", 0)
        self._output = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((_ROWS, 8), np.float32), "cuda", 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input("x", self._input)
        self._binding.bind_ortvalue_output("y", self._output)

    def __call__(self, seed: int) -> Any:
        """The answer to an input that is written into the same memory."""
        self._input.update_inplace(_input(seed))
        self._session.run_with_iobinding(self._binding, self._options)
        return self._output.numpy().copy()


def _bound(model: str) -> dict[str, object]:
    call = _Bound(_session(model), 0, "1")
    return _right(model, [call(seed) for seed in range(5)])


def _two_bound(model: str) -> dict[str, object]:
    session = _session(model)
    calls = [_Bound(session, 0, "1"), _Bound(session, 0, "2")]
    return _right(model, [calls[seed % 2](seed) for seed in range(8)])


def _zero(model: str) -> dict[str, object]:
    """A plain call without a number captures number 0, which a bound call of number 0 then replays."""
    session = _session(model)
    plain = [session.run(None, {"x": _input(seed)})[0] for seed in range(3)]
    call = _Bound(session, 0, "0")
    return _right(model, [*plain, *(call(seed) for seed in range(3, 6))])


def _mixed(model: str) -> dict[str, object]:
    """Plain calls of number -1 among captured ones."""
    session = _session(model)
    call = _Bound(session, 0, "1")
    answers = []
    for seed in range(6):
        answers.append(call(seed) if seed % 2 else session.run(None, {"x": _input(seed)}, _options("-1"))[0])
    return _right(model, answers)


def _threads(model: str) -> dict[str, object]:
    """Four threads, each with memory and a number of its own."""
    session, errors = _session(model), []
    answers: dict[int, list[Any]] = {}

    def work(index: int) -> None:
        try:
            call = _Bound(session, 0, str(index + 1))
            answers[index] = [call(seed) for seed in range(20)]
        except Exception as error:  # noqa: BLE001 - reported by the thread that waits
            errors.append(first_line(error))

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    if errors:
        return {"right": False, "error": errors[0]}
    if any(thread.is_alive() for thread in threads):
        return {"right": False, "error": "a thread did not end"}
    return {"right": all(_right(model, many)["right"] for many in answers.values())}


_WAYS: dict[str, Callable[[str], dict[str, object]]] = {
    "session.run, no gpu_graph_id": _plain(None),
    "session.run, gpu_graph_id -1": _plain("-1"),
    "bound, gpu_graph_id 1": _bound,
    "two bindings, gpu_graph_id 1 and 2": _two_bound,
    "session.run without a number, then bound with 0": _zero,
    "session.run with -1 among bound calls with 1": _mixed,
    "four threads, a binding and a number each": _threads,
}
