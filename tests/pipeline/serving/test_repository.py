"""Versions that come and go: what is freed, what goes on, what is refused."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from export.errors import UserError
from pipeline.bundle import releases
from pipeline.serving.model import Admit
from pipeline.serving.protocol.refusal import Refusal
from pipeline.verifier.outcome import Refused
from tests.pipeline.serving.doubling import Doubling
from tests.pipeline.serving.local import repository_of, until

if TYPE_CHECKING:
    from pipeline.serving.repository import Repository

pytestmark = pytest.mark.extra
ROWS = [np.ones((1, 2), np.float32)]


@contextmanager
def without_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_a_version_that_has_gone_is_freed_at_once_and_without_a_collection(tmp_path: Path) -> None:
    async def test() -> None:
        repository, metrics = await repository_of(lambda *_: Doubling(), tmp_path)
        for _ in range(3):
            served = repository.get("doubling", None)
            await served.batcher.ask(ROWS, 1, None)
            gone = [weakref.ref(served.model), weakref.ref(served.batcher)]
            del served
            await repository.load("doubling")
            await until(lambda gone=gone: not any(reference() for reference in gone))  # type: ignore[misc]
            assert b'waiting_requests{model="doubling",version="1"} 0.0' in metrics.text()
        await repository.close()

    with without_collection():
        asyncio.run(test())


def test_what_is_kept_is_seen_to_be_kept(tmp_path: Path) -> None:
    """The twin: a reference that somebody holds."""

    async def test() -> None:
        repository, _ = await repository_of(lambda *_: Doubling(), tmp_path)
        kept = repository.get("doubling", None)
        gone = weakref.ref(kept.model)
        await repository.load("doubling")
        await until(lambda: kept.model.closed)  # type: ignore[attr-defined]
        assert gone() is kept.model
        await repository.close()

    asyncio.run(test())


def versions(place: Path, count: int) -> None:
    for version in range(1, count + 1):
        (place / str(version)).mkdir()
    releases.switch(place, 1)


def test_a_folder_is_followed_on_whatever_a_new_version_brings(tmp_path: Path) -> None:
    versions(tmp_path, 5)
    errors: dict[str, Exception] = {
        "2": OSError("too many open files"), "3": RuntimeError("the runtime"), "4": Refused("a wrong answer"),
    }  # fmt: skip

    def opens(place: Path, version: str, admit: Admit) -> Doubling:
        if version in errors:
            raise errors[version]
        return Doubling(version=version)

    async def test() -> None:
        repository, _ = await repository_of(opens, tmp_path)
        repository.start_following(0.005)
        entry = repository.entries["doubling"]
        for version, error in errors.items():
            releases.switch(tmp_path, int(version))
            await until(lambda error=error: entry.refused == str(error))  # type: ignore[misc]
            assert repository.get("doubling", None).model.version == "1"
        releases.switch(tmp_path, 5)
        await until(lambda: repository.get("doubling", None).model.version == "5")
        assert entry.refused == ""
        await repository.close()

    asyncio.run(test())


def test_a_folder_that_cannot_be_looked_at_is_looked_at_again_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from pipeline.serving.entry import Source

    looks: list[int] = []

    @dataclass(frozen=True)
    class Unreadable(Source):
        def current(self) -> tuple[Path, str]:
            looks.append(1)
            raise OSError("stale file handle")

    versions(tmp_path, 2)

    async def test() -> None:
        repository, _ = await repository_of(lambda _, version, __: Doubling(version=version), tmp_path)
        entry = repository.entries["doubling"]
        readable, entry.source = entry.source, Unreadable(tmp_path)
        repository.start_following(0.005)
        await until(lambda: len(looks) > 3)
        entry.source = readable
        releases.switch(tmp_path, 2)
        await until(lambda: repository.get("doubling", None).model.version == "2")
        await repository.close()

    asyncio.run(test())
    assert len([record for record in caplog.records if "cannot be looked at" in record.msg]) == 1


def test_a_version_that_arrives_when_nobody_waits_for_it_is_closed(tmp_path: Path) -> None:
    async def test() -> None:
        repository, asked, gate, closed = await gated(tmp_path)
        loading = asyncio.create_task(repository.load("doubling"))
        await until(asked.is_set)
        loading.cancel()
        await asyncio.wait([loading])
        assert closed == []
        closing = asyncio.create_task(repository.close())
        await asyncio.sleep(0.02)
        assert not closing.done()  # it waits for what is on its way
        gate.set()
        await closing
        assert sorted(closed) == ["1", "2"]

    asyncio.run(test())


def test_to_close_waits_for_a_load_under_way(tmp_path: Path) -> None:
    async def test() -> None:
        repository, asked, gate, closed = await gated(tmp_path)
        loading = asyncio.create_task(repository.load("doubling"))
        await until(asked.is_set)
        closing = asyncio.create_task(repository.close())
        await asyncio.sleep(0.02)
        assert (closing.done(), closed) == (False, [])
        gate.set()
        await asyncio.gather(loading, closing)
        assert sorted(closed) == ["1", "2"]

    asyncio.run(test())


async def gated(place: Path) -> tuple[Repository, threading.Event, threading.Event, list[str]]:
    """A repository whose second version waits for the gate; whether it was asked for; the versions closed so far."""
    asked, gate, closed = threading.Event(), threading.Event(), list[str]()
    numbers = iter("12")

    def opens(*_: object) -> Doubling:
        version = next(numbers)
        if version == "2":
            asked.set()
            assert gate.wait(20)
        return Doubling(version=version, closed=closed)

    repository, _ = await repository_of(opens, place)
    return repository, asked, gate, closed


def admitted(threads: dict[str, int | None]) -> Callable[[Path, str, Admit], Doubling]:
    def opens(place: Path, version: str, admit: Admit) -> Doubling:
        admit(place.name, threads[place.name])
        return Doubling(name=place.name, torch_threads=threads[place.name])

    return opens


@pytest.mark.parametrize(("threads", "is_refused"), [((1, 2), True), ((2, 2), False), ((1, None), False)])
def test_two_models_of_torch_with_other_numbers_of_threads_are_refused_by_name(
    tmp_path: Path, threads: tuple[int | None, int | None], *, is_refused: bool
) -> None:
    from pipeline.serving.entry import Source
    from pipeline.serving.limits import ServeLimits
    from pipeline.serving.metrics import Metrics
    from pipeline.serving.repository import Repository

    for name in "ab":
        (tmp_path / name).mkdir()

    async def test() -> None:
        repository = Repository(admitted(dict(zip("ab", threads, strict=True))), ServeLimits(), Metrics())
        try:
            await repository.open([Source(tmp_path / "a"), Source(tmp_path / "b")])
        finally:
            repository.abandon()

    if is_refused:
        with pytest.raises(Refused, match=r"'b' was tested with threads_count=2 of torch, 'a' with 1"):
            asyncio.run(test())
    else:
        asyncio.run(test())


def test_a_bundle_of_another_model_does_not_take_over(tmp_path: Path) -> None:
    names = iter(["doubling", "another"])

    async def test() -> None:
        repository, _ = await repository_of(lambda *_: Doubling(name=next(names)), tmp_path)
        with pytest.raises(Refusal, match="is refused"):
            await repository.load("doubling")
        assert repository.entries["doubling"].refused == "it holds the model 'another', not 'doubling'"
        await repository.close()

    asyncio.run(test())


@pytest.mark.parametrize("seconds", ["nan", "0", "-1", "inf"])
def test_how_often_folders_are_looked_at_is_a_time(tmp_path: Path, seconds: str) -> None:
    from torchstone.commands.serve import main

    with pytest.raises(UserError, match="--follow-s must be seconds above 0"):
        main([str(tmp_path), "--follow-s", seconds])
