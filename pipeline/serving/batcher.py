"""Requests of one model on their way to it: a bounded queue, and requests that wait together answered by one call.

Nobody waits for company: a call takes what is there when it begins. Quick models are called in the event loop itself,
by which time all that arrived in the same turn has been read; the others in a thread, while which more arrives.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from pipeline.serving.calls import Answering, Arrays, Outcome, Waiting, outcomes
from pipeline.serving.limits import ServeLimits
from pipeline.serving.protocol.refusal import Refusal, failed, overloaded
from pipeline.serving.worker import Worker

_RECENT_COUNT = 5
"""Calls whose median says what the next one takes: a slow one among them, such as the first, says nothing."""
_log = logging.getLogger(__name__)


class Batcher:
    """The queue before one model; to be used in the event loop's thread."""

    def __init__(self, model: Answering, limits: ServeLimits, called: Callable[[int, float], None]) -> None:
        """``called`` hears of each call its rows and seconds."""
        self._model, self._limits, self._called = model, limits, called
        self._queue: deque[Waiting] = deque()
        self._loop = asyncio.get_running_loop()
        self._is_busy = False
        self._recent_s = deque([0.0] * _RECENT_COUNT, maxlen=_RECENT_COUNT)
        self._worker = Worker(self._loop)
        self._running: list[Waiting] = []
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
            # An estimate alone refuses nobody while the model is free: only calls make a wrong one right again.
            if self._is_busy and self._wait_s() > timeout_s:
                raise _too_late()
        waiting = Waiting(arrays, rows, deadline_s, self._loop.create_future())
        self._queue.append(waiting)
        if not self._is_busy:
            self._is_busy = True
            self._idle.clear()
            self._loop.call_soon(self._next)
        return waiting.answer

    async def drained(self) -> None:
        """Return when nothing waits and nothing is computed."""
        await self._idle.wait()

    def end(self) -> None:
        """Let the thread end after the call at hand; nothing is to be asked any more."""
        self._worker.end()

    def _wait_s(self) -> float:
        """About how long a new request takes: the calls before it, the one under way, and its own."""
        ahead_count = len(self._queue)
        if self._model.joins:
            ahead_count = sum(waiting.rows for waiting in self._queue) // self._model.most_rows
        call_s = sorted(self._recent_s)[_RECENT_COUNT // 2]
        return call_s * (1 + bool(self._running) + ahead_count)

    def _next(self) -> None:
        """Begin the next call, if something waits for one."""
        batch = self._take()
        if not batch:
            self._is_busy = False
            self._idle.set()
        elif 0 < self._model.quick_rows >= sum(waiting.rows for waiting in batch):
            self._answered(batch, *_timed(self._model, batch))
        else:
            self._running = batch
            model, timer = self._model, self._loop.call_later(self._limits.call_s, self._give_up)
            self._worker.run(lambda: _timed(model, batch), lambda done: self._came_back(batch, timer, *done))

    def _take(self) -> list[Waiting]:
        """The oldest request, and those after it that can be answered by the same call."""
        batch: list[Waiting] = []
        rows, now_s = 0, time.monotonic()
        while self._queue:
            first = self._queue[0]
            if first.answer.done():  # whoever asked has gone
                self._queue.popleft()
            elif first.deadline_s is not None and now_s >= first.deadline_s:
                self._queue.popleft().answer.set_exception(_too_late())
            elif batch and not self._fits(first, batch[0], rows):
                break
            else:
                batch.append(self._queue.popleft())
                rows += first.rows
        return batch

    def _fits(self, waiting: Waiting, first: Waiting, rows: int) -> bool:
        """Whether a request can share the call of others, of so many rows."""
        model = self._model
        return model.joins and rows + waiting.rows <= model.most_rows and waiting.shapes == first.shapes

    def _came_back(
        self, batch: Sequence[Waiting], timer: asyncio.TimerHandle, results: Sequence[Outcome], call_s: float
    ) -> None:
        timer.cancel()
        self._running = []
        if self.is_stuck:
            self.is_stuck = False
            _log.warning("the model %s %s answers again, after %.1f s", self._model.name, self._model.version, call_s)
        self._answered(batch, results, call_s)

    def _answered(self, batch: Sequence[Waiting], results: Sequence[Outcome], call_s: float) -> None:
        """Hand the answers out, then see what has arrived since."""
        self._recent_s.append(call_s)
        self._called(sum(waiting.rows for waiting in batch), call_s)
        for waiting, outcome in zip(batch, results, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(outcome, Exception):
                waiting.answer.set_exception(self._blamed(waiting, outcome))
            else:
                waiting.answer.set_result(outcome)
        self._loop.call_soon(self._next)

    def _blamed(self, waiting: Waiting, error: Exception) -> Refusal:
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


def _timed(model: Answering, batch: Sequence[Waiting]) -> tuple[list[Outcome], float]:
    """What each request gets, and how long that took (s)."""
    began_s = time.monotonic()
    return outcomes(model, batch), time.monotonic() - began_s


def _too_late() -> Refusal:
    return Refusal(504, "deadline", "the answer would come after the request's timeout: it is not computed")
