"""Run the suite, an architecture after another; what a file already holds is not run again.

python -m tests.conformance [--only NAME ...] [--kind KIND ...] [--budget-s S] [--out FILE.jsonl]
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro

from tests.conformance.outcome import Outcome, line, outcomes
from tests.conformance.run import LIMIT_S, run
from tests.conformance.suite import KINDS, Architecture, architectures


@dataclass(frozen=True)
class Options:
    """What to run, and where to write."""

    only: tuple[str, ...] = ()
    """These architectures; all if none is named."""
    kind: tuple[str, ...] = KINDS
    budget_s: float = float("inf")
    """None is begun after so many seconds."""
    limit_s: float = LIMIT_S
    """The most that one of them may take."""
    out: Path = Path("conformance.jsonl")
    """A line for each that was run."""


def main(options: Options) -> int:
    """Run what the file does not hold; exit code 2 if a name is not known."""
    try:
        chosen = _chosen(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    known = {outcome.name for outcome in outcomes(options.out)}
    until = time.monotonic() + options.budget_s
    for architecture in chosen:
        if architecture.name in known:
            continue
        if architecture.missing:
            print(f"{architecture.name}: left out, {architecture.missing} is not installed")
            continue
        if time.monotonic() > until:
            print(f"{architecture.name} and what follows it: left out, the time is used up")
            break
        outcome = run(architecture, options.limit_s)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(line(outcome))
        print(_summary(outcome), flush=True)
    return 0


def _chosen(options: Options) -> list[Architecture]:
    """Those that the options name.

    Raises:
        ValueError: a name or kind that there is not.
    """
    if strange := sorted({*options.kind} - {*KINDS}):
        raise ValueError(f"there is no kind {strange[0]!r}: there are {', '.join(KINDS)}")
    named = [entry for entry in architectures(options.kind) if not options.only or entry.name in options.only]
    if absent := sorted({*options.only} - {entry.name for entry in named}):
        raise ValueError(f"there is no architecture {absent[0]!r} of these kinds")
    return named


def _summary(outcome: Outcome) -> str:
    counts = Counter(cell.status for cell in outcome.cells)
    return (
        f"{outcome.name}: {outcome.seconds:.0f} s, {', '.join(f'{count} {status}' for status, count in counts.items())}"
    )


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
