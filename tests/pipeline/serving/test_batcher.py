"""Between requests and the model: who is joined, who is refused, and what a failure costs whom."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from pipeline.serving.batcher import Arrays, Batcher
from pipeline.serving.limits import ServeLimits
from pipeline.serving.protocol.refusal import Refusal, invalid

QUICK = 1_000_000


@dataclass
class Doubling:
    """A model that doubles; negative values make it raise. It waits for ``gate`` first, and counts its calls' rows."""

    name: str = "doubling"
    version: str = "1"
    most_rows: int = 8
    quick_rows: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    rows: list[int] = field(default_factory=list)
    is_open: bool = True

    def __call__(self, arrays: Sequence[np.ndarray[Any, Any]]) -> Arrays:
        if not self.is_open:
            assert self.gate.wait(20)
        self.rows.append(len(arrays[0]))
        if (arrays[0] < 0).any():
            raise ValueError("a secret of the model's")
        return [arrays[0] * 2]

    def blame(self, arrays: Sequence[np.ndarray[Any, Any]]) -> Refusal | None:
        return invalid("input 'x' must lie above -10") if (arrays[0] < -10).any() else None


def ask(batcher: Batcher, *values: float, timeout_s: float | None = None) -> asyncio.Future[Arrays]:
    return batcher.ask([np.array(values, np.float32)], len(values), timeout_s)


def run(model: Doubling, test: Callable[[Batcher], Coroutine[Any, Any, None]], **limits: Any) -> None:
    async def started() -> None:
        batcher = Batcher(model, ServeLimits(**limits), lambda *_: None)
        await test(batcher)
        model.gate.set()
        await asyncio.wait_for(batcher.drained(), 20)

    asyncio.run(started())


@pytest.mark.parametrize("quick_rows", [0, QUICK], ids=["thread", "event loop"])
def test_requests_of_the_same_moment_are_one_call_and_each_gets_its_rows(quick_rows: int) -> None:
    model = Doubling(quick_rows=quick_rows)

    async def test(batcher: Batcher) -> None:
        answers = await asyncio.gather(*(ask(batcher, number, number + 0.5) for number in range(6)))
        assert [answer[0].tolist() for answer in answers] == [[2 * n, 2 * n + 1] for n in range(6)]

    run(model, test)
    assert model.rows == [8, 4]


def test_models_whose_rows_look_at_each_other_are_asked_one_by_one() -> None:
    model = Doubling(most_rows=1)

    async def test(batcher: Batcher) -> None:
        await asyncio.gather(*(ask(batcher, number, number) for number in range(3)))

    run(model, test)
    assert model.rows == [2, 2, 2]


def test_requests_of_other_shapes_are_not_joined() -> None:
    model = Doubling()

    async def test(batcher: Batcher) -> None:
        shapes = ((1, 2), (1, 2), (1, 3), (1, 2))
        answers = await asyncio.gather(*(batcher.ask([np.ones(shape, np.float32)], 1, None) for shape in shapes))
        assert [answer[0].shape for answer in answers] == [*shapes]

    run(model, test)
    assert model.rows == [2, 1, 1]


def test_of_a_joined_call_that_fails_only_the_request_at_fault_fails() -> None:
    model = Doubling()

    async def test(batcher: Batcher) -> None:
        pending = [ask(batcher, 1), ask(batcher, -1), ask(batcher, 2), ask(batcher, -11)]
        good, failed, other, wrong = await asyncio.gather(*pending, return_exceptions=True)
        assert isinstance(good, list)
        assert isinstance(other, list)
        assert (good[0].item(), other[0].item()) == (2, 4)
        assert isinstance(failed, Refusal)
        assert failed.status == 503
        assert "secret" not in str(failed)
        assert isinstance(wrong, Refusal)
        assert (wrong.status, str(wrong)) == (400, "input 'x' must lie above -10")

    run(model, test)


def test_more_than_may_wait_is_refused_at_once_and_the_rest_is_answered() -> None:
    model = Doubling(is_open=False)

    async def test(batcher: Batcher) -> None:
        first = ask(batcher, 0)
        await asyncio.sleep(0.01)  # it is being computed now
        pending = [ask(batcher, number) for number in range(3)]
        with pytest.raises(Refusal, match="too many") as refusal:
            ask(batcher, 9)
        assert refusal.value.status == 503
        assert dict(refusal.value.headers)[b"retry-after"].isdigit()
        model.gate.set()
        assert [answer[0].item() for answer in await asyncio.gather(first, *pending)] == [0, 0, 2, 4]

    run(model, test, waiting_requests=3)


def test_a_request_that_would_miss_its_deadline_is_not_computed() -> None:
    model = Doubling(is_open=False)

    async def test(batcher: Batcher) -> None:
        first = ask(batcher, 0)
        await asyncio.sleep(0.01)
        late, patient = ask(batcher, 1, 1, 1, timeout_s=0.05), ask(batcher, 2, timeout_s=60)
        await asyncio.sleep(0.1)
        model.gate.set()
        with pytest.raises(Refusal) as refusal:
            await late
        assert refusal.value.status == 504
        assert (await first)[0].item() == 0
        assert (await patient)[0].item() == 4
        with pytest.raises(Refusal):  # a call takes 0.1 s, as is known by now
            ask(batcher, 1, timeout_s=0.001)

    run(model, test)
    assert model.rows == [1, 1]


def test_a_model_that_hangs_fails_its_requests_and_no_others_until_it_comes_back() -> None:
    model, other = Doubling(is_open=False), Doubling()

    async def test(batcher: Batcher) -> None:
        beside = Batcher(other, ServeLimits(), lambda *_: None)
        hanging = ask(batcher, 1)
        await asyncio.sleep(0.01)
        waiting = ask(batcher, 2)
        for refused in (hanging, waiting):
            with pytest.raises(Refusal) as refusal:
                await refused
            assert refusal.value.status == 503
        assert batcher.is_stuck
        with pytest.raises(Refusal, match="does not answer"):
            ask(batcher, 3)
        assert (await ask(beside, 3))[0].item() == 6
        model.gate.set()
        while batcher.is_stuck:
            await asyncio.sleep(0.01)
        assert (await ask(batcher, 4))[0].item() == 8
        await beside.drained()

    run(model, test, call_s=0.1)


def test_a_client_that_has_gone_costs_no_call() -> None:
    model = Doubling(is_open=False)

    async def test(batcher: Batcher) -> None:
        first = ask(batcher, 0)
        await asyncio.sleep(0.01)
        ask(batcher, 1, 1).cancel()
        model.gate.set()
        await first

    run(model, test)
    assert model.rows == [1]


def test_a_lone_client_waits_for_nobody() -> None:
    """Both ways of calling: what is added to the call is far below any time for which others would be waited for."""
    for quick_rows in (0, QUICK):

        async def test(batcher: Batcher) -> None:
            await ask(batcher, 1)
            taken_s = []
            for _ in range(50):
                began_s = time.monotonic()
                await ask(batcher, 1)
                taken_s.append(time.monotonic() - began_s)
            assert sorted(taken_s)[10] < 1e-3

        run(Doubling(quick_rows=quick_rows), test)
