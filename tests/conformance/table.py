"""docs/measured/conformance.md from what ``python -m tests.conformance`` wrote.

    python -m tests.conformance.table FILE.jsonl [--at COMMIT] [--write docs/measured/conformance.md]
    python -m tests.conformance.table FILE.jsonl --against docs/measured/conformance.md

The second names what became worse than the page has it; exit code 1 if anything did.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from tests.conformance.outcome import BACKENDS, STATUSES, Cell, Outcome, outcomes
from tests.conformance.regression import worse
from tests.conformance.suite import KINDS, architectures
from tests.conformance.upstream import UPSTREAM

_LONGEST = 400
"""Characters of a reason."""


@dataclass(frozen=True)
class Options:
    """What to read, and what to do with it."""

    file: tyro.conf.Positional[Path]
    at: str | None = None
    """The commit and the machine that were measured."""
    write: Path | None = None
    """A file; by default the page is printed."""
    against: Path | None = None
    """A page to compare with instead."""


def main(options: Options) -> int:
    """Write or print the page, or compare with it."""
    run = outcomes(options.file)
    if options.against:
        problems = worse(run, options.against.read_text(encoding="utf-8"))
        print(*problems, sep="\n")
        return int(bool(problems))
    page = render(run, options.at)
    if options.write:
        options.write.write_text(page, encoding="utf-8")
    else:
        print(page, end="")
    return 0


def render(run: Sequence[Outcome], at: str | None) -> str:
    """The page."""
    order = sorted(run, key=lambda outcome: KINDS.index(outcome.kind))
    reasons = list(dict.fromkeys(cell.reason for outcome in order for cell in outcome.cells if cell.reason))
    heading = f"| architecture | kind | {' | '.join(BACKENDS)} | seconds |\n|---|---|{'---|' * len(BACKENDS)}--:|"
    rows = [_row(outcome, reasons) for outcome in order]
    parts = [
        f"# What becomes of {len(order)} architectures",
        _introduction(at),
        "\n".join([heading, *rows]),
        "## In figures",
        _figures(order),
        "## Reasons",
        "\n".join(f"{number}. {_plain(reason)}" for number, reason in enumerate(reasons, 1)),
        *_upstream(order),
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(at: str | None) -> str:
    place = f" at {at}" if at else ""
    return (
        f"`python -m tests.conformance`{place}: each architecture of tests/conformance is a recipe with random "
        "weights, run as `python -m pipeline.all FILE:function --only parity`. *pass*: the artifact computes the "
        "model's function; *refused*: parity says that it does not, with the levels that fail; *no artifact*: the "
        "exporter cannot; *not judged*: the run ended, or parity did. Numbers in brackets are those of the reasons. "
        "Seconds are those of the whole command, mostly starts of processes and imports."
    )


def _upstream(run: Sequence[Outcome]) -> list[str]:
    """What is not this project's to mend, of what did not pass."""
    wanting = [outcome.name for outcome in run if any(cell.status != "pass" for cell in outcome.cells)]
    known = [f"- {name}: {UPSTREAM[name]}" for name in wanting if name in UPSTREAM]
    return ["## Upstream", "\n".join(known)] if known else []


def _row(outcome: Outcome, reasons: Sequence[str]) -> str:
    by_backend = {cell.backend: _cell(cell, reasons) for cell in outcome.cells}
    cells = " | ".join(by_backend.get(backend, "") for backend in BACKENDS)
    return f"| {outcome.name} | {outcome.kind} | {cells} | {outcome.seconds:.0f} |"


def _cell(cell: Cell, reasons: Sequence[str]) -> str:
    levels = f": {', '.join(cell.levels)}" if cell.levels else ""
    reason = f" [{reasons.index(cell.reason) + 1}]" if cell.reason else ""
    return f"{cell.status}{levels}{reason}"


def _figures(run: Sequence[Outcome]) -> str:
    counts = {
        backend: Counter(cell.status for outcome in run for cell in outcome.cells if cell.backend == backend)
        for backend in BACKENDS
    }
    rows = [f"| {status} | {' | '.join(str(counts[name][status]) for name in BACKENDS)} |" for status in STATUSES]
    everywhere = sum(all(cell.status == "pass" for cell in outcome.cells) for outcome in run)
    slowest = max(run, key=lambda outcome: outcome.seconds)
    median_s = statistics.median(outcome.seconds for outcome in run)
    return "\n".join(
        [
            f"| | {' | '.join(BACKENDS)} |", f"|---|{'--:|' * len(BACKENDS)}", *rows, "",
            f"{len(run)} of the suite's {len(architectures())} were run, {everywhere} pass everywhere. "
            f"Median {median_s:.0f} s, worst {slowest.seconds:.0f} s ({slowest.name}).",
        ]
    )  # fmt: skip


def _plain(reason: str) -> str:
    """One line that Markdown shows as it is."""
    text = " ".join(reason.split())
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    return short.replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*").replace("_", r"\_")


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
