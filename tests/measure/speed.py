"""How long the commands take that a person waits for: the limits that the project sets itself, measured.

    python -m tests.measure.speed [--write docs/measured/speed.md]

Each command runs in a fresh process, the main job in an empty output folder, with every compiler cache inside it.
Exit code 1 if a limit is missed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from export.environment import environment
from tests.conftest import ROOT, environ

REPEATS_COUNT = 3


@dataclass(frozen=True)
class Command:
    name: str
    arguments: tuple[str, ...]
    limit_s: float
    fresh: bool = False
    """Whether each repeat begins with an empty output folder."""
    module: str = "all"
    repeats_count: int = REPEATS_COUNT
    vary: str | None = None
    """A flag that each repeat gives another value, so that the stage that it belongs to is done again."""


COMMANDS = (
    Command("the main job on `seed`, from nothing", ("seed",), 120.0, fresh=True),
    Command("again, nothing changed", ("seed",), 4.0),
    Command(
        "`seed` measured anew, `--bench.depth standard`", ("seed", "--bench.depth", "standard"), 300.0, repeats_count=1
    ),
    Command("`seed` measured anew, `--bench.depth claim`", ("seed", "--bench.depth", "claim"), 600.0, repeats_count=1),
    Command("`digits` trained and built (repeats reuse)", ("digits", "--only", "build"), 120.0),
    Command(
        "parity of `digits`, all artifacts built", ("digits", "--only", "parity"), 30.0, vary="--parity.call-limit-s"
    ),
    Command(
        "the same, `--parity.depth full`",
        ("digits", "--only", "parity", "--parity.depth", "full"),
        240.0,
        repeats_count=1,
        vary="--parity.call-limit-s",
    ),
    Command("`pipeline.calibrate digits`", ("digits",), 60.0, module="calibrate"),
    Command("`pipeline.locate seed onnx`", ("seed", "onnx"), 15.0, module="locate"),
    Command("`--help`", ("--help",), 1.0),
    Command("`seed --help`", ("seed", "--help"), 4.0),
)


def seconds(command: Command, base: Path) -> list[float]:
    """Wall-clock seconds of every repeat."""
    taken = []
    for repeat in range(command.repeats_count):
        out = base / (f"fresh-{repeat}" if command.fresh else "fresh-0")
        options = [] if "--help" in command.arguments else ["--out", str(out)]
        options += [command.vary, f"{2 + repeat / 100 + ('full' in command.arguments) / 10}"] if command.vary else []
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", f"pipeline.{command.module}", *command.arguments, *options],
            capture_output=True, text=True, check=False, env=environ(), cwd=ROOT,
        )  # fmt: skip
        taken.append(time.monotonic() - started)
        if done.returncode != 0:
            raise SystemExit(f"{command.name} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return taken


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()


def main(arguments: list[str]) -> int:
    lines = ["| command | fastest (s) | all repeats (s) | limit (s) |", "|---|---|---|---|"]
    missed = False
    with tempfile.TemporaryDirectory() as base:
        for command in COMMANDS:
            taken = seconds(command, Path(base))
            missed |= min(taken) > command.limit_s
            repeats = ", ".join(f"{one:.2f}" for one in taken)
            lines.append(f"| {command.name} | {min(taken):.2f} | {repeats} | {command.limit_s:g} |")
            print(lines[-1], flush=True)
    machine = environment().machine
    versions = ", ".join(f"{name} {version}" for name, version in environment().versions.items())
    where = f"`python -m tests.measure.speed` at {commit()}, {machine.cores_count} cores of {machine.cpu}; {versions}."
    heading = f"# Times of the commands\n\n{where}\n\n"
    if arguments[:1] == ["--write"]:
        Path(arguments[1]).write_text(heading + "\n".join(lines) + "\n")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
