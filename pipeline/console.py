"""What a person sees while a run goes on: lines and bars on a terminal, plain lines elsewhere, nothing if asked."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.verifier.outcome import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import RenderableType


WIDE = 140
"""Columns where there is no terminal: the table keeps its full width, since a log is read later, on another screen."""


@dataclass
class Console:
    """Where text goes. ``quiet`` and ``json`` keep the standard output free of it."""

    quiet: bool = False
    json: bool = False
    _rich: RichConsole = field(init=False, repr=False)

    def __post_init__(self) -> None:
        width = None if sys.stdout.isatty() else WIDE
        self._rich = RichConsole(quiet=self.quiet or self.json, highlight=False, width=width)

    def say(self, text: str) -> None:
        """One line (or a few); what would move a terminal's cursor is spelled out."""
        self._rich.print(printable_lines(text), markup=False, soft_wrap=True)

    def stage(self, name: str, text: str) -> None:
        """A line of a stage: its name in front."""
        self._rich.print(f"[bold cyan]{name:<8}[/] {escape(printable(text))}", soft_wrap=True)

    def show(self, what: RenderableType) -> None:
        """A table."""
        self._rich.print(what)

    @contextlib.contextmanager
    def bar(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar with the time left, on a terminal; call it with how many are done."""
        if not self._rich.is_terminal or self._rich.quiet:
            yield lambda done: None
            return
        columns = (
            TextColumn("[bold cyan]{task.description:<8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self._rich, transient=True) as progress:
            task = progress.add_task(name, total=total)
            yield lambda done: progress.update(task, completed=done)
