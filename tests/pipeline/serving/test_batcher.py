"""Between requests and the model: who is joined, who is refused, and what a failure costs whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from pipeline.serving.batcher import Batcher
from pipeline.serving.calls import Arrays
from pipeline.serving.limits import ServeLimits
from pipeline.serving.protocol.refusal import Refusal
from tests.pipeline.serving.doubling import QUICK, Doubling


def ask(batcher: Batcher, *values: float, timeout_s: float | None = None) -> asyncio.Future[Arrays]:
    return batcher.ask([np.array(values, np.float32)], len(values), timeout_s)


def run(model: Doubling, test: Callable[[Batcher], Coroutine[Any, Any, None]], **limits: Any) -> None:
    async def started() -> None:
        batcher = Batcher(model, ServeLimits(**limits), lambda *_: None)
        await test(batcher)
        model.gate.set()
        await asyncio.wait_for(batcher.drained(), 20)
        batcher.end()

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
    model = Doubling(joins=False)

    async def test(batcher: Batcher) -> None:
        await asyncio.gather(*(ask(batcher, number, number) for number in range(3)))

    run(model, test)
    assert model.rows == [2, 2, 2]


def test_requests_without_rows_are_not_joined_either_and_not_called_in_the_event_loop() -> None:
    model = Doubling(joins=False, most_rows=1)

    async def test(batcher: Batcher) -> None:
        await asyncio.gather(ask(batcher), ask(batcher), ask(batcher, 1))

    run(model, test)
    assert model.rows == [0, 0, 1]
    assert threading.main_thread() not in model.threads


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


def test_one_request_at_fault_among_many_costs_few_calls() -> None:
    model = Doubling(most_rows=256)

    async def test(batcher: Batcher) -> None:
        pending = [ask(batcher, -1 if number == 100 else number) for number in range(256)]
        answers = await asyncio.gather(*pending, return_exceptions=True)
        assert [number for number, answer in enumerate(answers) if isinstance(answer, Refusal)] == [100]

    run(model, test)
    assert len(model.rows) == 1 + 2 * 8  # halved eight times


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

    run(model, test)
    assert model.rows == [1, 1]


def test_slow_calls_lock_nobody_out_once_the_model_is_free() -> None:
    model = Doubling(call_s=0.1)

    async def test(batcher: Batcher) -> None:
        await ask(batcher, 0)
        first = ask(batcher, 0)
        ask(batcher, 0, timeout_s=0.05).cancel()  # a first slow call says nothing of the next
        await first
        for _ in range(2):
            await ask(batcher, 0)
        first = ask(batcher, 0)
        with pytest.raises(Refusal) as refusal:  # but the median of the last does
            ask(batcher, 1, timeout_s=0.05)
        assert refusal.value.status == 504
        await first
        await asyncio.sleep(0.001)
        model.call_s = 0.0
        assert (await ask(batcher, 1, timeout_s=0.05))[0].item() == 2

    run(model, test)


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
    """The loop is held, so that no timer can fire: the call has begun by then."""
    model = Doubling()

    async def test(batcher: Batcher) -> None:
        answer = ask(batcher, 1)
        await asyncio.sleep(0)
        assert model.began.wait(20)
        await answer

    run(model, test)


def test_a_lone_client_of_a_quick_model_is_answered_in_the_same_turn() -> None:
    async def test(batcher: Batcher) -> None:
        answer = ask(batcher, 1)
        await asyncio.sleep(0)
        assert answer.done()

    run(Doubling(quick_rows=QUICK), test)
