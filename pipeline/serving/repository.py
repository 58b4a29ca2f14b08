"""The models that are served, each from a bundle or from a serving folder whose current version may change.

A new version is verified, loaded and warmed up beside the old; then requests go to it, and the old one ends when it has
answered what it had taken. One that is refused changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from export.errors import UserError
from pipeline.serving.batcher import Batcher
from pipeline.serving.entry import Entry, Served, Source
from pipeline.serving.limits import ServeLimits
from pipeline.serving.metrics import Metrics
from pipeline.serving.model import Admit, Model
from pipeline.serving.protocol.refusal import Refusal, failed
from pipeline.serving.worker import in_thread
from pipeline.verifier.outcome import Refused, Unable

Opens = Callable[[Path, str, Admit], Model]
"""Verifies the bundle in a folder, and loads it as a version if it is admitted: see ``open_model``."""
_log = logging.getLogger(__name__)


class Repository:
    """All models of a server."""

    def __init__(self, opens: Opens, limits: ServeLimits, metrics: Metrics) -> None:
        self._opens, self._limits, self._metrics = opens, limits, metrics
        self._retiring: dict[asyncio.Task[None], Served] = {}
        self._following: asyncio.Task[None] | None = None
        self._openings: set[asyncio.Future[Model]] = set()
        self.entries: dict[str, Entry] = {}
        metrics.waiting = self._waiting_counts

    async def open(self, sources: Sequence[Source]) -> None:
        """Verify and load all that is to be served.

        Raises:
            Refused, Unable: a bundle is not good; nothing is served then.
            UserError: no bundle there, or two of one name.
        """
        for source in sources:
            served = await self._load(source)
            name = served.model.name
            if name in self.entries:
                served.close()
                raise UserError(f"{self.entries[name].source.place} and {source.place} both hold the model {name!r}")
            self.entries[name] = Entry(source, served, tried=served.model.version)

    def get(self, name: str, version: str | None) -> Served:
        """The model that answers.

        Raises:
            Refusal: 404, no such model or version; 503, it is unloaded.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise Refusal(404, "unknown", f"there is no model {name[:100]!r}")
        if entry.served is None:
            raise failed(f"the model {name!r} is not loaded")
        if version is not None and version != entry.served.model.version:
            raise Refusal(404, "unknown", f"the model {name!r} has no version {version[:20]!r} here")
        return entry.served

    @property
    def is_ready(self) -> bool:
        """Whether every model answers."""
        return all(entry.is_ready for entry in self.entries.values())

    def served(self) -> Iterator[Served]:
        """Those that are loaded."""
        return (entry.served for entry in self.entries.values() if entry.served is not None)

    async def load(self, name: str) -> None:
        """Bring in what lies at the model's source now, and switch to it.

        Raises:
            Refusal: 404, no such model; 400, the bundle is refused, 503, it cannot be loaded: what served goes on.
        """
        entry = self._entry(name)
        async with entry.changing:
            try:
                served = await self._load(entry.source)
                if served.model.name != name:
                    served.close()
                    raise Refused(f"it holds the model {served.model.name!r}, not {name!r}")
            except Exception as error:  # noqa: BLE001 - what served goes on, whatever happened to the new
                self._refuse(name, entry, error)
            before, entry.served = entry.served, served
            entry.refused, entry.tried = "", served.model.version
            _log.info("the model %s: version %s serves", name, served.model.version)
            if before is not None:
                self._retire(before)

    async def unload(self, name: str) -> None:
        """Stop serving a model; what it had taken is answered.

        Raises:
            Refusal: 404, no such model.
        """
        entry = self._entry(name)
        async with entry.changing:
            if entry.served is not None:
                self._retire(entry.served)
                entry.served = None

    def start_following(self, every_s: float) -> None:
        """From now on look at every serving folder again and again, and load what became current."""
        self._following = asyncio.get_running_loop().create_task(self._follow_all(every_s))

    async def _follow_all(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            for name, entry in self.entries.items():
                try:
                    await self._follow(name, entry)
                except Exception as error:  # noqa: BLE001 - a folder that cannot be read now can be in a second
                    if entry.refused != repr(error):  # said once, and not every second
                        _log.exception("the model %s: its folder cannot be looked at, which is tried again", name)
                    entry.refused = repr(error)

    async def close(self) -> None:
        """Wait for what is on its way in and out, then free all."""
        self._stop_following()
        for entry in self.entries.values():
            async with entry.changing:
                if entry.served is not None:
                    self._retire(entry.served)
                    entry.served = None
        while self._openings or self._retiring:
            pending: set[asyncio.Future[Any]] = {*self._openings, *self._retiring}
            await asyncio.wait(pending)

    def abandon(self) -> None:
        """Free what ``close`` has not, whether it has answered or not."""
        self._stop_following()
        for served in (*self.served(), *self._retiring.values()):
            served.close()

    def _stop_following(self) -> None:
        if self._following is not None:
            self._following.cancel()

    async def _follow(self, name: str, entry: Entry) -> None:
        if entry.served is None or not entry.source.has_releases:
            return
        try:
            version = entry.source.current()[1]
        except UserError as error:
            version, entry.refused = entry.tried, str(error)
        if version != entry.tried:
            entry.tried = version
            with contextlib.suppress(Refusal):  # it has been logged, and is tried again when the link changes again
                await self.load(name)

    def _refuse(self, name: str, entry: Entry, error: Exception) -> NoReturn:
        """Keep why a new version does not serve, and say it: the whole to the log, to a client whose fault it is."""
        entry.refused = str(error) or type(error).__name__
        if isinstance(error, Refused | Unable | UserError):
            _log.error("the model %s: a new version is refused: %s", name, error)
            raise Refusal(400, "invalid", f"the bundle of {name!r} is refused; see the server's log") from None
        _log.error("the model %s: a new version cannot be loaded", name, exc_info=error)
        raise failed(f"the bundle of {name!r} cannot be loaded; see the server's log") from None

    async def _load(self, source: Source) -> Served:
        model = await self._opened(*source.current())
        metrics = self._metrics.of(model.name, model.version)
        return Served(model, Batcher(model, self._limits, metrics.called), metrics)

    async def _opened(self, place: Path, version: str) -> Model:
        """The model, verified and loaded in a thread; one that arrives when nobody waits for it any more is closed."""
        opening = in_thread(partial(self._opens, place, version, self._admit))
        self._openings.add(opening)
        opening.add_done_callback(self._openings.discard)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)
            raise

    def _admit(self, name: str, torch_threads: int | None) -> None:
        """Hold a model to what the others here need of the process; its own last version makes room for it.

        Raises:
            Refused: torch was to run another number of threads for another model.
        """
        for other in (*self.served(),):
            known = other.model.torch_threads
            if other.model.name != name and None not in (known, torch_threads) and known != torch_threads:
                raise Refused(
                    f"{name!r} was tested with threads_count={torch_threads} of torch, {other.model.name!r} with "
                    f"{known}: a process has one for all, so serve them by two"
                )

    def _waiting_counts(self) -> dict[tuple[str, str], int]:
        return {(served.model.name, served.model.version): served.batcher.waiting_count for served in self.served()}

    def _retire(self, served: Served) -> None:
        task = asyncio.get_running_loop().create_task(self._ended(served))
        self._retiring[task] = served
        task.add_done_callback(self._retiring.pop)

    async def _ended(self, served: Served) -> None:
        """Free a version when it has answered all; one that does not answer is left behind."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(served.batcher.drained(), self._limits.grace_s)
        served.close()

    def _entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise Refusal(404, "unknown", f"there is no model {name[:100]!r}")
        return self.entries[name]


def _close_late(opening: asyncio.Future[Model]) -> None:
    if opening.exception() is None:
        opening.result().close()
