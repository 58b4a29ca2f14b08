"""docs/measured/gpu.md from what ``python -m tests.gpu`` brought back.

    python -m tests.measure.gpu_table GPU.JSONL [GPU.JSONL ...] [--at COMMIT] [--write docs/measured/gpu.md]

Several files are several calls on machines of the same kind: of each step the newest line that is done counts, else the
newest. A step's single figures become one table, each of its lists of lines another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from tests.gpu.drive import DONE
from tests.gpu.plan import STEPS

_LONGEST = 160
"""Characters of a cell; error messages may be longer."""


@dataclass(frozen=True)
class Options:
    """What to read, and where to write."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    at: str | None = None
    """The commit that was measured."""
    write: Path | None = None
    """A file; by default the page is printed."""


def main(options: Options) -> int:
    """Write the page."""
    page = render([json.loads(line) for file in options.files for line in file.read_text().splitlines()], options.at)
    if options.write:
        options.write.write_text(page)
    else:
        print(page)
    return 0


def render(lines: Sequence[Mapping[str, Any]], at: str | None) -> str:
    """The page."""
    kept: dict[str, Mapping[str, Any]] = {}
    for line in lines:
        if line["step"] not in kept or line["status"] == DONE or kept[line["step"]]["status"] != DONE:
            kept[line["step"]] = line
    order = [step.name for step in STEPS]
    chosen = sorted(kept.values(), key=lambda line: order.index(line["step"]) if line["step"] in order else len(order))
    facts = kept.get("facts", {}).get("figures", {})
    machine = [f"`python -m tests.gpu` at {at}" if at else "`python -m tests.gpu`"]
    machine += [str(facts[name]) for name in ("device", "python") if name in facts]
    versions = facts.get("versions", {})
    machine += [f"{name} {versions[name]}" for name in ("torch", "triton", "onnxruntime-gpu") if name in versions]
    summary = [{name: line.get(name) for name in ("step", "status", "seconds", "reason")} for line in chosen]
    parts = ["# On an NVIDIA GPU", "; ".join(machine) + ".", _table(summary), *map(_step, chosen)]
    return "\n\n".join(parts) + "\n"


def _step(line: Mapping[str, Any]) -> str:
    """A step's heading and tables."""
    figures: Mapping[str, Any] = line["figures"]
    tables = {name: value for name, value in figures.items() if _is_table(value)}
    single = [{"figure": name, "value": value} for name, value in figures.items() if name not in tables]
    parts = [f"## {line['step']}", f"{line['about']}."]
    if line["status"] != DONE:
        parts.append(f"**{line['status']}**: {line['reason']}")
    parts += [_table(single)] if single else []
    for name, rows in tables.items():
        parts += [f"### {line['step']}: {name}", _table(rows)]
    return "\n\n".join(parts)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns in the order in which they first appear; those that are empty in every line are left out."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns = [name for name in columns if any(_cell(row.get(name)) for row in rows)]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(_cell(row.get(name)) for name in columns)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    """A value as a person reads it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        value = ", ".join(f"{name} {_cell(one)}" for name, one in value.items())
    elif isinstance(value, list):
        value = ", ".join(map(_cell, value))
    text = str(value).replace("|", "\\|").replace("\n", " ")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
