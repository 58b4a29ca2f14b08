"""CUDA graphs: what a call queues on a GPU, recorded once, replayed by one launch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from export.errors import UserError

R = TypeVar("R")
CALLS_BEFORE = 3
"""In which libraries and compilers settle: none of that may be recorded."""
_CAPTURING = threading.Lock()
_ABANDONED: list[Any] = []
"""Graphs whose capture failed: torch's allocator may go on to name them."""


def captured(call: Callable[[], R], index: int) -> Callable[[], R]:
    """Replays what ``call`` queued on the GPU with this number; results keep their memory.

    One thread captures at a time, since beginning to waits for the whole device; what others queue meanwhile does not
    end it, for its mode is that of the thread. A graph keeps no input alive: its caller must.

    Raises:
        UserError: the call does what no graph can hold, such as reading a value on the host.
    """
    import torch

    stream, graph = torch.cuda.Stream(index), torch.cuda.CUDAGraph()
    caller = torch.cuda.current_stream(index)
    with _CAPTURING:
        stream.wait_stream(caller)
        with torch.cuda.stream(stream):
            for _ in range(CALLS_BEFORE):
                call()
        try:
            # The stream is left by the outer block also where a capture that failed does not leave it.
            with torch.cuda.stream(stream), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                results = call()
        except RuntimeError as error:
            _ABANDONED.append(graph)
            first = error.__context__ or error  # ending the capture raises as well, and says less
            raise UserError(
                f"cuda_graph: the call cannot be captured ({str(first).strip().splitlines()[0]}): "
                "it may compute on the host, or wait for the GPU. Leave the option out"
            ) from error
        caller.wait_stream(stream)

    def replay() -> R:
        graph.replay()
        return results

    return replay
