"""The child's side: one step's function, and where it writes its figures down as soon as it has them."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_DIGITS = 6


@dataclass(frozen=True)
class Context:
    """What a step may use."""

    device: str
    """``cuda``, or ``cpu`` for a dry run."""
    work: Path
    """A folder that all steps share, outside of what is brought back."""
    figures: Path
    """JSON lines: what the step found so far."""

    @property
    def small(self) -> bool:
        """A dry run: the smallest sizes that show that the code works."""
        return self.device == "cpu"

    def put(self, name: str, value: object) -> None:
        """One figure; its unit is the end of its name."""
        self._append({"name": name, "value": plain(value)})

    def row(self, table: str, **columns: object) -> None:
        """One line of a table."""
        self._append({"table": table, "row": plain(columns)})

    @contextmanager
    def attempt(self, table: str, **columns: object) -> Iterator[dict[str, object]]:
        """A line of a table whose further columns the block fills in; what it raises becomes its column ``error``."""
        found = dict(columns)
        try:
            yield found
        except Exception as error:  # noqa: BLE001 - one experiment that fails must not stop the others of its step
            traceback.print_exc()
            found["error"] = first_line(error)
        self.row(table, **found)

    @property
    def runs(self) -> Path:
        """The pipeline's output folder."""
        return self.work / "runs"

    def run_folder(self, recipe: str) -> Path | None:
        """The newest run of a recipe; None if there is none."""
        runs = sorted(self.runs.glob(f"{recipe}/*/recipe.json"), key=lambda path: path.stat().st_mtime)
        return runs[-1].parent.resolve() if runs else None

    def _append(self, line: Mapping[str, object]) -> None:
        with self.figures.open("a") as file:
            file.write(json.dumps(line) + "\n")


def plain(value: object) -> Any:
    """A value as JSON can hold it: floats of six digits, numbers that are not finite as text."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return str(value)


def first_line(error: BaseException) -> str:
    """The type of an error and the beginning of its message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def environ(**more: str) -> dict[str, str]:
    """This process's environment with our packages importable from any folder, beside those that PYTHONPATH adds."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "120"} | more


@dataclass(frozen=True)
class Ended:
    """A child process that has ended."""

    code: int
    lines: tuple[str, ...]
    """What it printed."""

    @property
    def cause(self) -> str:
        """How it ended, in a line."""
        return f"exit code {self.code}: {self.lines[-1] if self.lines else 'no output'}"[:400]


def python(*arguments: str, **more: str) -> Ended:
    """A fresh interpreter, to its end; what it prints goes to this step's log line by line."""
    child = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT, env=environ(**more), text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        print(line, end="", flush=True)
        if line.strip():
            lines.append(line.strip())
    return Ended(child.wait(), tuple(lines))


def main(function: str, device: str, work: str, figures: str) -> int:
    """Run one step's function."""
    module, _, name = function.partition(":")
    getattr(importlib.import_module(module), name)(Context(device, Path(work), Path(figures)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
