"""What the rows of a run are about: a backend that is built for, or a file that another tool made of the same model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from export import registry
from export.backend import Backend


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One row."""

    name: str
    """What a recipe calls it: the backend's name, or the user's own for a foreign file."""
    backend_name: str
    is_foreign: bool = False

    @property
    def backend(self) -> Backend:
        """What builds it and runs it."""
        return registry.get(self.backend_name)

    def row(self, device: str) -> str:
        """What its row and its artifact are called."""
        return self.name if self.is_foreign else self.backend.artifact_name(device)


def entries(backends: Iterable[str], foreign: Iterable[tuple[str, str]]) -> dict[str, Entry]:
    """All of a run by name, in the order of its table; ``foreign`` has every foreign file's name and backend."""
    built = {name: Entry(name=name, backend_name=name) for name in backends}
    return built | {name: Entry(name=name, backend_name=backend, is_foreign=True) for name, backend in foreign}
