"""The models that are served, each from a bundle or from a serving folder whose current version may change.

A new version is verified, loaded and warmed up beside the old; then requests go to it, and the old one ends when it has
answered what it had taken. One that is refused changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from export.errors import UserError
from pipeline.bundle import releases
from pipeline.serving.batcher import Batcher
from pipeline.serving.limits import ServeLimits
from pipeline.serving.metrics import Metrics, ModelMetrics
from pipeline.serving.model import Model, open_model
from pipeline.serving.protocol.refusal import Refusal, failed
from pipeline.verifier.files import MANIFEST
from pipeline.verifier.outcome import Refused, Unable
from pipeline.verifier.verify import Request

_ONLY_VERSION = "1"
"""What the version of a bundle is called that does not lie in a serving folder."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a model comes from."""

    place: Path
    """A bundle, or a serving folder."""

    @property
    def has_releases(self) -> bool:
        """Whether it is a serving folder, in which versions come and go."""
        return not (self.place / MANIFEST).is_file() and (self.place / releases.CURRENT).is_symlink()

    def current(self) -> tuple[Path, str]:
        """The bundle that is to serve, and its version.

        Raises:
            UserError: there is none.
        """
        if not self.has_releases:
            if not self.place.is_dir():
                raise UserError(f"there is no folder {self.place}: name a bundle, or a serving folder")
            return self.place, _ONLY_VERSION
        version = releases.current(self.place)
        return self.place / str(version), str(version)


@dataclass(frozen=True)
class Served:
    """One version of a model, ready to be asked."""

    model: Model
    batcher: Batcher
    metrics: ModelMetrics


@dataclass
class Entry:
    """One model by its name."""

    source: Source
    served: Served | None
    """None while it is unloaded."""
    refused: str = ""
    """Why the version that should serve does not; empty if it does."""
    tried: str = ""
    """The version that was last tried."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_ready(self) -> bool:
        """Whether it answers."""
        return self.served is not None and not self.served.batcher.is_stuck


class Repository:
    """All models of a server."""

    def __init__(self, request: Request, limits: ServeLimits, metrics: Metrics) -> None:
        self._request, self._limits, self._metrics = request, limits, metrics
        self._retiring: set[asyncio.Task[None]] = set()
        self.entries: dict[str, Entry] = {}

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
            Refusal: 404, no such model; 400, the bundle there is refused: what served goes on.
        """
        entry = self._entry(name)
        async with entry.changing:
            try:
                served = await self._load(entry.source)
                if served.model.name != name:
                    served.model.close()
                    raise Refused(f"it holds the model {served.model.name!r}, not {name!r}")
            except (Refused, Unable, UserError) as error:
                entry.refused = str(error)
                _log.error("the model %s: a new version is refused: %s", name, error)
                raise Refusal(400, "invalid", f"the bundle of {name!r} is refused; see the server's log") from None
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

    async def follow(self, every_s: float) -> None:
        """Look at every serving folder again and again, and load what became current; never returns."""
        while True:
            await asyncio.sleep(every_s)
            for name, entry in self.entries.items():
                if entry.source.has_releases and entry.served is not None:
                    await self._follow(name, entry)

    async def close(self) -> None:
        """Wait for what is on its way out, then free all."""
        for entry in self.entries.values():
            if entry.served is not None:
                self._retire(entry.served)
                entry.served = None
        await asyncio.gather(*self._retiring)

    async def _follow(self, name: str, entry: Entry) -> None:
        try:
            version = entry.source.current()[1]
        except UserError as error:
            version, entry.refused = entry.tried, str(error)
        if version != entry.tried:
            entry.tried = version
            with contextlib.suppress(Refusal):  # it has been logged, and is tried again when the link changes again
                await self.load(name)

    async def _load(self, source: Source) -> Served:
        place, version = source.current()
        model = await asyncio.to_thread(open_model, place, version, self._request)
        metrics = self._metrics.of(model.name, version)
        batcher = Batcher(model, self._limits, metrics.called)
        metrics.waiting = lambda: batcher.waiting_count
        return Served(model, batcher, metrics)

    def _retire(self, served: Served) -> None:
        task = asyncio.get_running_loop().create_task(self._ended(served))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _ended(self, served: Served) -> None:
        """Free a version when it has answered all; one that does not answer is left behind."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(served.batcher.drained(), self._limits.grace_s)
        served.model.close()

    def _entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise Refusal(404, "unknown", f"there is no model {name[:100]!r}")
        return self.entries[name]
