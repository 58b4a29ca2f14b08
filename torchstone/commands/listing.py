"""What there is: built-in recipes, backends and extras; which of them work here, and how to get the others.

    torchstone list [options]

Backends are asked about the device on which a run would take place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

import tyro

from export import hints
from pipeline.cli import GOOD

if TYPE_CHECKING:
    from pipeline.console import Console

_DISTRIBUTION = "torchstone"
_REQUIREMENT = re.compile(r"([\w.-]+).*;.*\bextra == ['\"]([\w-]+)['\"]")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where to look."""

    device: str = "auto"
    """The device that backends are to work on: cpu, cuda, cuda:1; auto takes CUDA where it is usable."""
    json: bool = False
    """Print all of it as JSON, and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Something that a command takes by its name."""

    name: str
    summary: str
    missing: str | None = None
    """Why it does not work here, and how to get it; None where it works."""


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What there is."""

    version: str
    device: str
    recipes: tuple[Entry, ...]
    backends: tuple[Entry, ...]
    extras: tuple[Entry, ...]


def main(arguments: Sequence[str], command: str = "torchstone list") -> int:
    """Look, and show it."""
    options = tyro.cli(
        Options, args=list(arguments), prog=command, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
    )
    from export.record import to_json
    from pipeline.console import Console

    inventory = look(options.device)
    if options.json:
        print(json.dumps(to_json(inventory)))
    else:
        _show(Console(), inventory)
    return GOOD


def look(where: str) -> Inventory:
    """What there is for a device.

    Raises:
        UserError: the device cannot be used here.
    """
    from export.device import choose
    from export.version import VERSION
    from pipeline.recipes import built_in

    device, extras = choose(where).name, tuple(_extras())
    missing = {extra.name: extra.missing for extra in extras}  # a recipe's packages are the extra of its name
    return Inventory(
        version=VERSION,
        device=device,
        recipes=tuple(Entry(name=name, summary=text, missing=missing.get(name)) for name, text in built_in().items()),
        backends=tuple(_backends(device)),
        extras=extras,
    )


def _backends(device: str) -> Iterator[Entry]:
    """In the order of tables."""
    from export import registry

    for name in registry.names():
        backend = registry.get(name)
        by = [] if backend.exporter == "none" else [f"exported by {backend.exporter}"]
        facts = [*by, f"runs on {backend.runtime}", *filter(None, [backend.precision])]
        standard = ["standard"] if name in registry.STANDARD else []
        yield Entry(name=name, summary=", ".join([*facts, *standard]), missing=backend.unavailable(device))


def _extras() -> Iterator[Entry]:
    """The extras of the installed distribution, each with the packages that it adds; none where it is not installed."""
    try:
        required = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return
    packages: dict[str, list[str]] = {}
    for match in filter(None, map(_REQUIREMENT.match, required)):
        packages.setdefault(match[2], []).append(match[1])
    for extra, names in packages.items():
        absent = [name for name in names if not _is_installed(name)]
        remedy = f"{', '.join(absent)} not installed: {hints.install(extra)}" if absent else None
        yield Entry(name=extra, summary=", ".join(names), missing=remedy)


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _show(console: Console, inventory: Inventory) -> None:
    """Three tables."""
    from rich.markup import escape
    from rich.table import Table

    groups = (
        ("recipe", "torchstone run NAME", inventory.recipes),
        ("backend", f"--backends NAME ..., on {inventory.device}", inventory.backends),
        ("extra", hints.install("NAME"), inventory.extras),
    )
    for heading, how, entries in groups:
        shown = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("", heading, how):
            shown.add_column(escape(column))
        for entry in entries:
            shown.add_row("✗" if entry.missing else "✓", entry.name, escape(entry.missing or entry.summary))
        console.show(shown)
        console.say("")
