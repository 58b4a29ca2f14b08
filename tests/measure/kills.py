"""SIGKILL at random instants of every command: nothing is half-written, left running, or left outside of the run.

    python -m tests.measure.kills [--kills N] [--seed S] [--only COMMAND ...]

A run of the default recipe with all six backends is killed again and again, and goes on each time; when it ends, its
bundle must be accepted, and another is begun. `tune`, `ship` and `verify` are killed on a finished run. The victim is
drawn as well: the whole process group, the process that was started (a leader), the one that it leads, or a leader of a
child. HOME and TMPDIR are empty folders of the matrix's own, and must stay so. Exit code 1 if anything is amiss.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline.verifier.outcome import Refused, Unable
from pipeline.verifier.verify import verify_contents
from tests.conftest import BUILT, environ

GONE_S = 2.0
"""By then nothing of a killed command may run."""
_MARK = "TORCHSTONE_KILLS"
VICTIMS = ("the group", "the leader", "its member", "a child's leader")


@dataclass(frozen=True)
class Command:
    """What is killed, within so many seconds of its start."""

    name: str
    share: float
    within_s: float
    arguments: Callable[[Path, int], list[str]]


COMMANDS = (
    Command("all", 0.6, 25.0, lambda base, turn: ["pipeline.all", *BUILT, "--out", str(base / "o")]),
    Command("tune", 0.1, 12.0, lambda base, turn: [
        "pipeline.tune", str(base / "f" / "seed" / "latest"), "--artifacts", "onnx", "--processes", "2",
    ]),
    Command("ship", 0.15, 8.0, lambda base, turn: [
        "pipeline.ship", str(base / "f" / "seed" / "latest"), "--to", str(base / "s"), "--also", "torchscript",
        "--storage-uri", f"s3://models/{turn}",
    ]),
    Command("verify", 0.15, 6.0, lambda base, turn: [
        "pipeline.verify", str(base / "s" / "current"),
        *(["--artifact", "torchscript", "--trust"] if turn % 2 else []),
    ]),
)  # fmt: skip


class Matrix:
    """The folders that commands work in, and what was counted."""

    def __init__(self, base: Path, draw: random.Random) -> None:
        self.base, self.draw = base, draw
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        for name in ("home", "tmp"):
            (base / name).mkdir()

    def start(self, arguments: list[str]) -> tuple[subprocess.Popen[bytes], str]:
        """A command in a session of its own, and the mark that all of its processes bear."""
        mark = uuid.uuid4().hex
        home, temporary = str(self.base / "home"), str(self.base / "tmp")
        process = subprocess.Popen(
            [sys.executable, "-B", "-m", *arguments], cwd=self.base, start_new_session=True,
            env=environ(HOME=home, TMPDIR=temporary, **{_MARK: mark}),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return process, mark

    def finish(self, arguments: list[str]) -> None:
        """A command that is not killed must end well."""
        process, mark = self.start(arguments)
        self.expect(process.wait() == 0, f"{arguments[0]} ended with {process.returncode} after the kills")
        self._look(mark, f"{arguments[0]} to its end")

    def kill(self, command: Command, turn: int) -> bool:
        """One kill; False if the command ended before."""
        victim = self.draw.choice(VICTIMS)
        process, mark = self.start(command.arguments(self.base, turn))
        delay_s = self.draw.uniform(0.05, command.within_s)
        try:
            process.wait(delay_s)
        except subprocess.TimeoutExpired:
            _kill(process, victim)
            process.wait()
            self.counts[f"{command.name}: {victim}"] += 1
            self._look(mark, f"{command.name} killed after {delay_s:.2f} s, {victim}")
            return True
        self.expect(process.returncode == 0, f"{command.name} ended with {process.returncode} between kills")
        return False

    def expect(self, holds: bool, what: str) -> None:
        """Note what is amiss."""
        if not holds:
            self.wrong.append(what)
            print(f"AMISS: {what}", flush=True)

    def _look(self, mark: str, when: str) -> None:
        deadline_s = time.monotonic() + GONE_S
        while (left := _marked(mark)) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        self.expect(not left, f"{when}: still running {[_name(process) for process in left]}")
        for process in left:
            process.kill()
        outside = [*(self.base / "home").iterdir()]
        outside += [path for path in (self.base / "tmp").iterdir() if not path.name.startswith(_SWEPT)]
        self.expect(not outside, f"{when}: left outside {[str(path) for path in outside[:5]]}")
        for run in [*self.base.glob("[of]/seed/*")]:
            if not run.is_symlink():
                for problem in damaged(run):
                    self.expect(False, f"{when}: {problem}")
        for bundle in [*self.base.glob("s/[0-9]*"), *self.base.glob("[of]/seed/*/bundle")]:
            try:
                verify_contents(bundle)
            except (Refused, Unable) as error:
                self.expect(False, f"{when}: {bundle}: {error}")


_SWEPT = "torchstone-verify-"
"""What a killed check leaves of its private copy goes with a later check."""


def damaged(run: Path) -> list[str]:
    """Files of finished stages that are not what their records say."""
    problems = []
    for path in sorted(run.rglob("*.json")):
        if any(part.startswith(".") for part in path.relative_to(run).parts) or "bundle" in path.parts:
            continue
        try:
            record: Any = json.loads(path.read_bytes())
        except ValueError:
            problems.append(f"{path} is not JSON")
            continue
        files = record.get("fields", {}).get("files", []) if isinstance(record, dict) else []
        for file in files:
            stored = path.parent / file["path"]
            if not stored.is_file() or hashlib.sha256(stored.read_bytes()).hexdigest() != file["sha256"]:
                problems.append(f"{stored} is not what {path.name} says")
    return problems


def _kill(process: subprocess.Popen[bytes], victim: str) -> None:
    """The victim, or the group where it is not there yet."""
    below = psutil.Process(process.pid).children(recursive=True)
    chosen = {
        "the leader": [process.pid],
        "its member": [child.pid for child in below[:1]],
        "a child's leader": [child.pid for child in below if "export.child" in " ".join(_command(child))][:1],
    }.get(victim, [])
    for pid in chosen:
        os.kill(pid, signal.SIGKILL)
    if victim == "a child's leader" and chosen:  # that costs a row alone; the run is killed a little later
        time.sleep(0.3)
        chosen = []
    if not chosen:
        os.killpg(process.pid, signal.SIGKILL)


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _marked(mark: str) -> list[psutil.Process]:
    """Living processes that bear the mark."""
    marked = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                marked.append(process)
        except psutil.Error:
            continue
    return marked


def _name(process: psutil.Process) -> str:
    return " ".join(_command(process))[-120:] or str(process.pid)


def run_matrix(kills_count: int, seed: int, only: Sequence[str]) -> Matrix:
    """All kills, of these commands alone if any are named; then every command to its end."""
    with tempfile.TemporaryDirectory(prefix="k") as folder:
        matrix = Matrix(Path(folder), random.Random(seed))
        matrix.finish(["pipeline.all", *BUILT, "--out", str(matrix.base / "f")])
        matrix.finish(COMMANDS[2].arguments(matrix.base, 0))
        chosen = [command for command in COMMANDS if not only or command.name in only]
        shares = sum(command.share for command in chosen)
        for command in chosen:
            left = round(kills_count * command.share / shares)
            turn = 0
            while left:
                left -= matrix.kill(command, turn)
                turn += 1
                if command.name == "all" and (matrix.base / "o" / "seed" / "latest" / "bundle").exists():
                    matrix.finish(command.arguments(matrix.base, turn))
                    shutil.rmtree(matrix.base / "o")
            matrix.finish(command.arguments(matrix.base, turn))
            print(f"{command.name}: {turn} starts", flush=True)
        time.sleep(61)  # what a killed check left is not young any more
        matrix.finish(COMMANDS[3].arguments(matrix.base, 0))
        matrix.expect(not [*(matrix.base / "tmp").iterdir()], "the last check swept not all that killed ones left")
        return matrix


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], choices=[command.name for command in COMMANDS])
    options = parser.parse_args()
    matrix = run_matrix(options.kills, options.seed, options.only)
    for name, count in sorted(matrix.counts.items()):
        print(f"{count:>5} {name}")
    print(f"{sum(matrix.counts.values()):>5} kills, {len(matrix.wrong)} amiss")
    return int(bool(matrix.wrong))


if __name__ == "__main__":
    raise SystemExit(main())
