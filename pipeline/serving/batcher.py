"""Requests of one model on their way to it: a bounded queue, and requests that wait together answered by one call.

Nobody waits for company: a call takes what is there when it begins. Quick models are called in the event loop itself,
by which time all that arrived in the same turn has been read; the others in a thread, while which more arrives.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pipeline.serving.limits import ServeLimits
from pipeline.serving.protocol.refusal import Refusal, failed, overloaded

Arrays = list[np.ndarray[Any, Any]]
Outcome = Arrays | Exception
_RECENT = 0.1
"""The part that the newest call has in the running mean of what a call takes."""
_log = logging.getLogger(__name__)


class Answering(Protocol):
    """What is called: see ``pipeline.serving.model.Model``."""

    name: str
    version: str
    most_rows: int
    quick_rows: int

    def __call__(self, arrays: Sequence[np.ndarray[Any, Any]]) -> Arrays:
        """One call."""
        ...

    def blame(self, arrays: Sequence[np.ndarray[Any, Any]]) -> Refusal | None:
        """What of a call that failed is the client's fault."""
        ...


@dataclass(slots=True)
class _Waiting:
    """A request that waits for its answer."""

    arrays: Arrays
    rows: int
    deadline_s: float | None
    answer: asyncio.Future[Arrays]
    shapes: tuple[tuple[int, ...], ...] = field(init=False)
    """Without rows: requests that are alike in these can be joined."""

    def __post_init__(self) -> None:
        self.shapes = tuple([array.shape[1:] for array in self.arrays])


class Batcher:
    """The queue before one model; to be used in the event loop's thread."""

    def __init__(self, model: Answering, limits: ServeLimits, called: Callable[[int, float], None]) -> None:
        """``called`` hears of each call its rows and seconds."""
        self._model, self._limits, self._called = model, limits, called
        self._queue: deque[_Waiting] = deque()
        self._loop = asyncio.get_running_loop()
        self._is_busy = False
        self._call_s = 0.0
        self._worker = _Worker(self._answers, self._loop)
        self._running: list[_Waiting] = []
        self.is_stuck = False
        """Whether a call takes longer than it may, and has not ended yet."""
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def waiting_count(self) -> int:
        """Requests that no call has taken up yet."""
        return len(self._queue)

    def ask(self, arrays: Arrays, rows: int, timeout_s: float | None) -> asyncio.Future[Arrays]:
        """The answer to come.

        Raises:
            Refusal: 503, too much waits, or the model does not answer; 504, it would come too late.
        """
        if self.is_stuck:
            raise failed(f"the model {self._model.name!r} does not answer")
        if len(self._queue) >= self._limits.waiting_requests:
            raise overloaded("too many requests wait", self._wait_s())
        deadline_s = None
        if timeout_s is not None:
            deadline_s = time.monotonic() + timeout_s
            if self._wait_s() > timeout_s:
                raise _too_late()
        waiting = _Waiting(arrays, rows, deadline_s, self._loop.create_future())
        self._queue.append(waiting)
        if not self._is_busy:
            self._is_busy = True
            self._idle.clear()
            self._loop.call_soon(self._next)
        return waiting.answer

    async def drained(self) -> None:
        """Return when nothing waits and nothing is computed; then end the thread."""
        await self._idle.wait()
        self._worker.end()

    def _wait_s(self) -> float:
        """About how long a new request takes: the calls before it, the one under way, and its own."""
        ahead_rows = sum(waiting.rows for waiting in self._queue) if self._queue else 0
        return self._call_s * (1 + bool(self._running) + ahead_rows // self._model.most_rows)

    def _next(self) -> None:
        """Begin the next call, if something waits for one."""
        batch = self._take()
        if not batch:
            self._is_busy = False
            self._idle.set()
        elif sum(waiting.rows for waiting in batch) <= self._model.quick_rows:
            self._answered(batch, *self._answers(batch))
        else:
            self._running = batch
            timer = self._loop.call_later(self._limits.call_s, self._give_up)
            self._worker.run(batch, lambda outcomes, call_s: self._came_back(batch, timer, outcomes, call_s))

    def _take(self) -> list[_Waiting]:
        """The oldest request, and those after it that can be answered by the same call."""
        batch: list[_Waiting] = []
        rows, now_s = 0, time.monotonic()
        while self._queue:
            first = self._queue[0]
            if first.answer.done():  # whoever asked has gone
                self._queue.popleft()
            elif first.deadline_s is not None and now_s + self._call_s > first.deadline_s:
                self._queue.popleft().answer.set_exception(_too_late())
            elif batch and (rows + first.rows > self._model.most_rows or first.shapes != batch[0].shapes):
                break
            else:
                batch.append(self._queue.popleft())
                rows += first.rows
        return batch

    def _answers(self, batch: Sequence[_Waiting]) -> tuple[list[Outcome], float]:
        """What each request gets, and how long the call took (s)."""
        began_s = time.monotonic()
        outcomes: list[Outcome]
        if len(batch) == 1:
            outcomes = [self._one(batch[0].arrays)]
        else:
            try:
                outcomes = [*self._joined(batch)]
            except Exception:  # noqa: BLE001 - one of them is at fault: the others must not pay for it
                outcomes = [self._one(waiting.arrays) for waiting in batch]
        return outcomes, time.monotonic() - began_s

    def _one(self, arrays: Arrays) -> Outcome:
        try:
            return self._model(arrays)
        except Exception as error:  # noqa: BLE001 - each runtime fails in its own type
            return error

    def _joined(self, batch: Sequence[_Waiting]) -> list[Arrays]:
        """One call for all; each request gets its rows of every output."""
        columns = zip(*(waiting.arrays for waiting in batch), strict=True)
        outputs = self._model([np.concatenate(column) for column in columns])
        answers, begin = [], 0
        for waiting in batch:
            end = begin + waiting.rows
            answers.append([output[begin:end] for output in outputs])
            begin = end
        return answers

    def _came_back(
        self, batch: Sequence[_Waiting], timer: asyncio.TimerHandle, outcomes: Sequence[Outcome], call_s: float
    ) -> None:
        timer.cancel()
        self._running = []
        if self.is_stuck:
            self.is_stuck = False
            _log.warning("the model %s %s answers again, after %.1f s", self._model.name, self._model.version, call_s)
        self._answered(batch, outcomes, call_s)

    def _answered(self, batch: Sequence[_Waiting], outcomes: Sequence[Outcome], call_s: float) -> None:
        """Hand the answers out, then see what has arrived since."""
        self._call_s += (call_s - self._call_s) * (_RECENT if self._call_s else 1.0)
        self._called(sum(waiting.rows for waiting in batch), call_s)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(outcome, Exception):
                waiting.answer.set_exception(self._blamed(waiting, outcome))
            else:
                waiting.answer.set_result(outcome)
        self._loop.call_soon(self._next)

    def _blamed(self, waiting: _Waiting, error: Exception) -> Refusal:
        """What a client hears of a call that failed; the log has the error."""
        if (refusal := self._model.blame(waiting.arrays)) is not None:
            return refusal
        _log.error("the model %s %s failed", self._model.name, self._model.version, exc_info=error)
        return failed(f"the model {self._model.name!r} failed on this request")

    def _give_up(self) -> None:
        """The call takes longer than it may: whoever waits is told, and nobody waits until it ends."""
        self.is_stuck = True
        _log.error("the model %s %s did not answer in time", self._model.name, self._model.version)
        for waiting in (*self._running, *self._queue):
            if not waiting.answer.done():
                waiting.answer.set_exception(failed(f"the model {self._model.name!r} does not answer"))
        self._queue.clear()


class _Worker:
    """The thread in which a model is called. It ends with the process: a call that hangs keeps nobody from leaving."""

    def __init__(
        self, compute: Callable[[Sequence[_Waiting]], tuple[list[Outcome], float]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._compute, self._loop = compute, loop
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="torchstone-model").start()

    def run(self, batch: Sequence[_Waiting], done: Callable[[list[Outcome], float], None]) -> None:
        """Compute in the thread, then call ``done`` in the event loop's."""

        def job() -> None:
            outcomes, call_s = self._compute(batch)
            self._loop.call_soon_threadsafe(done, outcomes, call_s)

        self._jobs.put(job)

    def end(self) -> None:
        """Let the thread end when it has done what it was given."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _too_late() -> Refusal:
    return Refusal(504, "deadline", "the answer would come after the request's timeout: it is not computed")
