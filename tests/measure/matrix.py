"""The main job on every Python and torch that is supported, each in a new environment: which work, and how long.

    python -m tests.measure.matrix [--pythons 3.11 3.12] [--torches 2.13.0 newest] [--write docs/measured/matrix.md]

A Python is found as ``pythonX.Y`` on the path or in pyenv's folder. An environment takes gigabytes where torch's wheel
is that for CUDA; it is removed when its row is known. A row that ``--rows`` already holds is not made again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import tyro

from tests.conftest import ROOT
from tests.measure.speed import commit

NEWEST = "newest"
_INSTALL_LIMIT_S, _RUN_LIMIT_S = 3600.0, 1800.0
_ASKED = "import json, sys, torch, onnxruntime, numpy; print(json.dumps([sys.version.split()[0], torch.__version__, onnxruntime.__version__, numpy.__version__]))"  # fmt: skip  # noqa: E501


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to try, and where the rows are kept."""

    pythons: tuple[str, ...] = ("3.11", "3.12", "3.13")
    torches: tuple[str, ...] = ("2.11.0", "2.13.0", NEWEST)
    """Versions of torch; ``newest`` is what pip takes by itself."""
    rows: Path = ROOT / "artifacts" / "matrix.jsonl"
    """Where rows are kept as they are known."""
    write: Path | None = None
    """The page; by default it is printed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One environment, and how the main job went there."""

    python: str
    torch: str
    """As asked for."""
    commit: str
    versions: tuple[str, ...] = ()
    """Of Python, torch, ONNX Runtime and NumPy, as installed."""
    exit_code: int | None = None
    """None: it could not be installed."""
    seconds: float | None = None
    winner: str | None = None
    parity: dict[str, str] = field(default_factory=dict)
    """What parity said of each artifact."""
    error: str | None = None


def main(options: Options) -> int:
    """Make the rows that are not known yet; 0 only where every main job ended with 0."""
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    rows = _known(options.rows)
    for python in options.pythons:
        for torch in options.torches:
            if (python, torch) not in rows:
                rows[python, torch] = row = _tried(python, torch)
                with options.rows.open("a") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
                print(_line(row), flush=True)
    chosen = [rows[python, torch] for python in options.pythons for torch in options.torches]
    page = _page(chosen)
    if options.write is None:
        print(page, end="")
    else:
        options.write.write_text(page)
    return int(any(row.exit_code != 0 for row in chosen))


def _known(path: Path) -> dict[tuple[str, str], Row]:
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return {(row.python, row.torch): row for row in rows if row.exit_code is not None}  # an installation is tried again


def _tried(python: str, torch: str) -> Row:
    """A new environment, the main job in it, and what its records say."""
    at = commit()
    try:
        interpreter = _interpreter(python)
        with tempfile.TemporaryDirectory(prefix="torchstone-matrix-") as folder:
            here = _installed(interpreter, torch, Path(folder))
            versions = tuple(json.loads(_said([here, "-c", _ASKED], _INSTALL_LIMIT_S)))
            return _main_job(Row(python=python, torch=torch, commit=at, versions=versions), here, Path(folder))
    except (OSError, subprocess.SubprocessError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
        return Row(python=python, torch=torch, commit=at, error=_last_line(said or str(error)))


def _last_line(said: str) -> str:
    return next((line for line in reversed(said.splitlines()) if line.strip()), "nothing was said")[:200]


def _interpreter(python: str) -> str:
    in_pyenv = list((Path.home() / ".pyenv" / "versions").glob(f"{python}.*/bin/python"))
    newest = max(in_pyenv, key=lambda path: [int(part) for part in path.parts[-3].split(".")], default=None)
    found = str(newest) if newest else shutil.which(f"python{python}")
    if found is None:
        raise FileNotFoundError(f"there is no python{python}")
    return found


def _installed(interpreter: str, torch: str, folder: Path) -> str:
    """The core of the project with this torch in an environment of its own; returns its interpreter."""
    _said([interpreter, "-m", "venv", str(folder / "venv")], _INSTALL_LIMIT_S)
    here = str(folder / "venv" / "bin" / "python")
    wanted = "torch" if torch == NEWEST else f"torch=={torch}"
    _said([here, "-m", "pip", "install", "-q", wanted, str(ROOT)], _INSTALL_LIMIT_S)
    return here


def _main_job(row: Row, here: str, folder: Path) -> Row:
    out = folder / "out"
    began_s = time.monotonic()
    done = subprocess.run(
        [here, "-m", "pipeline.all", "seed", "--out", str(out)],
        capture_output=True, text=True, check=False, timeout=_RUN_LIMIT_S, cwd=folder, env=_environment(),
    )  # fmt: skip
    seconds = time.monotonic() - began_s
    run = out / "seed" / "latest"
    reports = {path.stem: json.loads(path.read_text()) for path in sorted(run.glob("parity/*.json"))}
    verdict = run / "verdict.json"
    return replace(
        row,
        exit_code=done.returncode,
        seconds=round(seconds, 1),
        winner=json.loads(verdict.read_text()).get("winner") if verdict.exists() else None,
        parity={name: report["status"] for name, report in reports.items()},
        error=None if done.returncode == 0 else _last_line(done.stdout + done.stderr),
    )


def _environment() -> dict[str, str]:
    """Without what would take the project from this checkout instead of from the environment."""
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}


def _said(command: Sequence[str], limit_s: float) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=limit_s, env=_environment()
    ).stdout


def _page(rows: Sequence[Row]) -> str:
    machine = f"{os.cpu_count()} cores, without a GPU"
    lines = [
        "# Pythons and torches",
        "",
        f"`python -m tests.measure.matrix`, {machine}: `python -m pipeline.all seed` from nothing, each in a new",
        "environment with the core install alone.",
        "",
        "| Python | torch | ONNX Runtime | NumPy | exit code | seconds | parity | winner | at | |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(_line, rows),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    python, torch, runtime, numpy = row.versions or (row.python, row.torch, "", "")
    passed_count = sum(status == "pass" for status in row.parity.values())
    others = ", ".join(f"{name} {status}" for name, status in row.parity.items() if status != "pass")
    cells = (
        python, torch, runtime, numpy, row.exit_code, row.seconds,
        f"{passed_count} pass" + (f", {others}" if others else ""), row.winner, row.commit, row.error,
    )  # fmt: skip
    return f"| {' | '.join('' if cell is None else str(cell) for cell in cells)} |"


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
