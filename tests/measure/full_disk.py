"""A disk that fills at one write after another: each command says so, loses nothing, and goes on when there is room.

    python -m tests.measure.full_disk [--step-kb N] [--only COMMAND ...]

Needs root, to mount file systems in memory. Each command works on one that has room for a little more at every try (so
many kB, and at least a sixteenth), from none at all, until it ends well. Every try before must end with code 2 and the
words that name the full disk. Exit code 1 if one did not.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import BUILT, environ
from tests.measure.kills import damaged

_LARGEST_KB = 1 << 16


@dataclass
class Disk:
    """A file system in memory."""

    folder: Path
    size_kb: int = 0

    def resize(self, size_kb: int) -> None:
        """Make room for so much, or no more than that."""
        self.size_kb = size_kb
        _run("mount", "-o", f"remount,size={size_kb}k", str(self.folder))

    @property
    def used_kb(self) -> int:
        """What lies on it."""
        done = subprocess.run(["df", "-k", "--output=used", self.folder], capture_output=True, text=True, check=True)
        return int(done.stdout.split()[-1])


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """A new one, mounted there, with room for one page."""
    folder.mkdir()
    _run("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder))
    try:
        yield Disk(folder)
    finally:
        _run("umount", "-l", str(folder))


@dataclass
class Ladder:
    """A command on a disk that grows."""

    name: str
    disk: Disk
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def climb(self, step_kb: int) -> tuple[int, list[str]]:
        """How often it was tried, and what was amiss of the tries."""
        amiss: list[str] = []
        tries = 0
        self.disk.resize(max(4, self.disk.used_kb))
        while self.disk.size_kb < _LARGEST_KB:
            tries += 1
            done = subprocess.run(
                [sys.executable, "-B", "-m", *self.arguments], cwd=self.disk.folder.parent, text=True,
                env=environ(**self.environment), capture_output=True, check=False,
            )  # fmt: skip
            if done.returncode == 0:
                return tries, amiss
            output = done.stdout + done.stderr
            errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            full = any("no space left" in line.lower() for line in errors)
            if done.returncode != 2 or len(errors) != 1 or not full or "Traceback" in done.stderr:
                amiss.append(f"{self.name} at {self.disk.size_kb} kB: {done.returncode} {output[-1200:]}")
                print(f"AMISS: {amiss[-1]}", flush=True)
            for run in self.disk.folder.glob("o/seed/*"):
                amiss += [] if run.is_symlink() else damaged(run)
            if tries % 10 == 0:
                print(f"{self.name}: {tries} tries, {self.disk.size_kb} kB", flush=True)
            size_kb = max(self.disk.size_kb, self.disk.used_kb)
            self.disk.resize(size_kb + max(step_kb, size_kb // 16))
        return tries, [*amiss, f"{self.name} never ended well"]


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def climb_all(step_kb: int, only: Sequence[str]) -> dict[str, tuple[int, list[str]]]:
    """By command: how often it was tried, and what was amiss; those not asked for run once, with room enough."""
    results = {}
    with tempfile.TemporaryDirectory(prefix="d") as folder:
        base = Path(folder)
        with small_disk(base / "d") as disk, small_disk(base / "t") as temporary:
            out = disk.folder / "o"
            run, current = str(out / "seed" / "latest"), str(base / "s" / "current")
            for name, place, step, arguments in (
                ("all", disk, step_kb, ["pipeline.all", *BUILT, "--out", str(out)]),
                ("tune", disk, step_kb, ["pipeline.tune", run, "--artifacts", "onnx", "--processes", "2"]),
                ("calibrate", disk, step_kb, ["pipeline.calibrate", "seed", "--out", str(out)]),
                ("locate", disk, step_kb, ["pipeline.locate", run, "onnx"]),
                ("ship", disk, step_kb, ["pipeline.ship", run, "--to", str(disk.folder / "s")]),
            ):
                ladder = Ladder(name, place, arguments)
                if only and name not in only:
                    disk.resize(_LARGEST_KB)
                    subprocess.run([sys.executable, "-B", "-m", *arguments], env=environ(), check=True)
                    continue
                results[name] = ladder.climb(step)
                print(f"{name}: {results[name][0]} tries, {len(results[name][1])} amiss", flush=True)
            if only and "verify" not in only:
                return results
            disk.resize(_LARGEST_KB)
            _run("cp", "-r", str(disk.folder / "s"), str(base / "s"))
            verify = ["pipeline.verify", current]
            ladder = Ladder("verify", temporary, verify, {"TMPDIR": str(temporary.folder)})
            results["verify"] = ladder.climb(max(step_kb // 8, 4))
            print(f"verify: {results['verify'][0]} tries, {len(results['verify'][1])} amiss", flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--step-kb", type=int, default=64)
    parser.add_argument("--only", nargs="*", default=[], metavar="COMMAND")
    options = parser.parse_args()
    results = climb_all(options.step_kb, options.only)
    for name, (tries, amiss) in results.items():
        print(f"{name:<10} {tries:>4} tries, {len(amiss)} amiss")
    return int(any(amiss for _, amiss in results.values()))


if __name__ == "__main__":
    raise SystemExit(main())
