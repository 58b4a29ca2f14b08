"""Threads that keep nobody from leaving: they end with the process, whatever hangs in them."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class Worker:
    """A thread that does one job after another. It refers to nothing but the job at hand."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=_work, args=(self._jobs,), daemon=True, name="torchstone-model").start()

    def run(self, compute: Callable[[], Result], done: Callable[[Result], None]) -> None:
        """Compute in the thread, then call ``done`` in the event loop's."""
        self._jobs.put(lambda: _to_loop(self._loop, done, compute()))

    def end(self) -> None:
        """Let the thread end when it has done what it was given."""
        self._jobs.put(None)


def in_thread(compute: Callable[[], Result]) -> asyncio.Future[Result]:
    """What ``compute`` returns or raises, from a thread of its own."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Result] = loop.create_future()

    def work() -> None:
        try:
            value = compute()
        except Exception as error:  # noqa: BLE001 - whoever awaits it gets it
            _to_loop(loop, result.set_exception, error)
        else:
            _to_loop(loop, result.set_result, value)

    threading.Thread(target=work, daemon=True, name="torchstone-load").start()
    return result


def _work(jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := jobs.get()) is not None:
        job()


def _to_loop(loop: asyncio.AbstractEventLoop, done: Callable[[Result], object], value: Result) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everybody who waited
        loop.call_soon_threadsafe(done, value)
