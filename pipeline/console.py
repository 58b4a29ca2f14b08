"""What a person sees while a run goes on: lines and bars on a terminal, plain lines elsewhere, nothing if asked."""

from __future__ import annotations

import contextlib
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from pipeline.verifier.outcome import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import RenderableType


WIDE = 140
"""Columns where there is no terminal: the table keeps its full width, since a log is read later, on another screen."""
_NAME = 9
"""Columns of a stage's name with the space behind it."""


class Advance(Protocol):
    """Moves a bar."""

    def __call__(self, done: float, note: str = "") -> None:
        """So many steps are done; what to say of them in a few words."""


@dataclass
class Console:
    """Where text goes. ``quiet`` and ``json`` keep the standard output free of it."""

    quiet: bool = False
    json: bool = False
    beat_s: float = 60.0
    """Without a terminal, a stage that lasts says so often what is running."""
    _rich: RichConsole = field(init=False, repr=False)

    def __post_init__(self) -> None:
        width = None if sys.stdout.isatty() else WIDE
        self._rich = RichConsole(quiet=self.quiet or self.json, highlight=False, width=width)

    @property
    def width(self) -> int:
        """Characters that a line has, at the moment."""
        return self._rich.width

    def say(self, text: str) -> None:
        """One line (or a few) as they are, for commands and paths; what would move a cursor is spelled out."""
        self._rich.print(printable_lines(text), markup=False, soft_wrap=True)

    def prose(self, text: str) -> None:
        """A sentence: on a terminal its lines end between words, elsewhere it is one line."""
        self._print(Text(printable(text)), "  ")

    def stage(self, name: str, text: str) -> None:
        """A line of a stage: its name in front."""
        line = Text(f"{name:<{_NAME - 1}} {printable(text)}")
        line.stylize("bold cyan", 0, len(name))
        self._print(line, " " * _NAME)

    def show(self, what: RenderableType) -> None:
        """A table."""
        self._rich.print(what)

    def lines(self, lines: Iterable[Text]) -> None:
        """Lines that are no wider than they may be."""
        for line in lines:
            self._rich.print(line, soft_wrap=True)

    @contextlib.contextmanager
    def bar(
        self, name: str, total: int | None = None, running: Callable[[], Iterable[str]] = tuple
    ) -> Iterator[Advance]:
        """Something that takes its time, in ``total`` steps if they are known; call it with how many are done.

        On a terminal a bar with the time left; elsewhere a line every ``beat_s`` seconds, which names what is
        ``running``.
        """
        if self._rich.quiet:
            yield lambda done, note="": None
        elif self._rich.is_terminal and not self._rich.is_dumb_terminal:
            columns = (
                TextColumn("[bold cyan]{task.description:<8}"), BarColumn(),
                *([] if total is None else [MofNCompleteColumn()]), TimeElapsedColumn(),
                *([] if total is None else [TextColumn("left"), TimeRemainingColumn()]),
                TextColumn("{task.fields[note]}"),
            )  # fmt: skip
            with Progress(*columns, console=self._rich, transient=True, refresh_per_second=2) as progress:
                task = progress.add_task(name, total=total, note="")
                yield lambda done, note="": progress.update(task, completed=done, note=note)
        else:
            with self._beats(name, total, running) as advance:
                yield advance

    @contextlib.contextmanager
    def _beats(self, name: str, total: int | None, running: Callable[[], Iterable[str]]) -> Iterator[Advance]:
        done_count, notes, begun_s, ended = 0, "", time.monotonic(), threading.Event()

        def advance(done: float, note: str = "") -> None:
            nonlocal done_count, notes
            done_count, notes = int(done), note

        def beat() -> None:
            while not ended.wait(self.beat_s):
                steps = [] if total is None else [f"{done_count} of {total} done"]
                steps += [notes] if notes else []
                names = ", ".join(running())
                minutes = (time.monotonic() - begun_s) / 60
                self.stage(name, "; ".join([*steps, f"running for {minutes:.0f} min" + (names and f": {names}")]))

        thread = threading.Thread(target=beat, name=f"beat-{name}", daemon=True)
        thread.start()
        try:
            yield advance
        finally:
            ended.set()
            thread.join()

    def _print(self, line: Text, indent: str) -> None:
        """A line that a terminal breaks between words, and goes on with an indent."""
        if not self._rich.is_terminal or len(line) <= self.width:
            self._rich.print(line, soft_wrap=True)
            return
        broken = textwrap.wrap(
            line.plain, self.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        first = Text(broken[0], spans=[span for span in line.spans if span.end <= len(broken[0])])
        self.lines([first, *map(Text, broken[1:])])
