"""Fuzzing of saved programs: archives arranged and edited at random, read by torch behind our guard and by torch alone.

    python -m tests.archives.fuzz [--cases N] [--seed S] [--from CASE]

Each case is a real program with one to three changes, most of which plant code that leaves a mark. It is loaded and
called in a child process: once as ``load_exported`` does it, once by torch alone. Exit code 1 if code ran that the
guard had accepted, or if readers disagree on an archive that the check of bundles accepts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import multiprocessing
import random
import resource
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

import torch
from torch.export.pt2_archive import PT2ArchiveReader

from export.archive import checked_program
from export.errors import RecordError
from export.program import quiet
from pipeline.verifier.archives import scan_archive
from pipeline.verifier.outcome import Refused
from tests.archives.forgeries import small_program
from tests.archives.mutations import mutated

TIME_LIMIT_S = 20.0
_CHILD_CASES, _MORE_BYTES = 2000, 4 << 30
Guard = Callable[[bytes, Path], IO[bytes]]

ACCEPTED = "accepted by the guard"
LOADED = "loaded by torch alone"
RAN_ALONE = "code ran in torch alone"
RAN_ACCEPTED = "code ran though the guard accepted"
RAN_REFUSED = "code ran while the guard refused"
SCANNED = "accepted by the check of bundles"
DISAGREED = "readers disagree on what that check accepted"
DIED_GUARDED = "the process died, or hung, behind the guard"
DIED_ALONE = "the process died, or hung, in torch alone"
COUNTS = (ACCEPTED, LOADED, RAN_ALONE, RAN_ACCEPTED, RAN_REFUSED, SCANNED, DISAGREED, DIED_GUARDED, DIED_ALONE)
NEVER = (RAN_ACCEPTED, RAN_REFUSED, DISAGREED, DIED_GUARDED)
"""What must not be counted."""


def unguarded(archive: bytes, path: Path) -> IO[bytes]:
    """No guard: every file is accepted."""
    return io.BytesIO(archive)


@dataclass(frozen=True)
class Bench:
    """What a child needs: the program, a folder of its own, and the guard that is looked at."""

    program: bytes
    folder: Path
    guard: Guard

    def case(self, name: str) -> bytes:
        """The program of that case, changed; its code makes the folder ``ran``."""
        return mutated(self.program, random.Random(name), self.folder / "ran")

    def behind_the_guard(self, archive: bytes) -> set[str]:
        """Load as ``load_exported`` does, call, and what came of it."""
        path = self.folder / "model.pt2"
        path.write_bytes(archive)
        try:
            data = self.guard(archive, path)
        except RecordError:
            return {RAN_REFUSED} if self._ran() else set()
        _load_and_call(data)
        return {ACCEPTED, *([RAN_ACCEPTED] if self._ran() else [])}

    def alone(self, archive: bytes) -> set[str]:
        """Load by torch alone, call, and what came of it; what the check of bundles says too."""
        found = {LOADED} if _load_and_call(io.BytesIO(archive)) else set()
        if self._ran():
            found.add(RAN_ALONE)
        with contextlib.suppress(Refused):
            scan_archive(self.folder / "model.pt2")
            found |= {SCANNED, *([] if _readers_agree(archive) else [DISAGREED])}
        return found

    def _ran(self) -> bool:
        """Whether the code left its mark, which is taken away."""
        mark = self.folder / "ran"
        if not mark.exists():
            return False
        shutil.rmtree(mark) if mark.is_dir() else mark.unlink()
        return True


def _load_and_call(data: IO[bytes]) -> bool:
    """Whether torch loads it; it is called on its own example."""
    program = None
    with quiet(), contextlib.suppress(Exception):  # damage of every kind
        program = torch.export.load(data)
    with quiet(), contextlib.suppress(Exception):
        if program is not None:
            arguments, keywords = program.example_inputs
            program.module()(*arguments, **keywords)
    return program is not None


def _readers_agree(archive: bytes) -> bool:
    """Whether Python's reader and torch's see the same members with the same bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as members:
            ours = {name.partition("/")[2]: members.read(name) for name in members.namelist()}
        reader = PT2ArchiveReader(io.BytesIO(archive))
        return ours == {name: reader.read_bytes(name) for name in reader.get_file_names()}
    except Exception:  # noqa: BLE001 - readers raise many types on damage; one that reads nothing misleads nobody
        return True


def fuzz(cases_count: int, seed: int, guard: Guard = checked_program, start: int = 0) -> Iterator[tuple[int, set[str]]]:
    """What came of each case, by its number; a child that dies costs one case."""
    torch.set_num_threads(1)  # forked processes have none of the others
    program, number, stop = small_program(), start, start + cases_count
    with tempfile.TemporaryDirectory(prefix="torchstone-archives-") as folder:
        bench = Bench(program, Path(folder), guard)
        while number < stop:
            batch = range(number, min(number + _CHILD_CASES, stop))
            for number, found in _in_child(bench, seed, batch):
                yield number, found
            number += 1


def _in_child(bench: Bench, seed: int, cases: range) -> Iterator[tuple[int, set[str]]]:
    """The cases of one child, up to the one of which it dies."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(bench, seed, cases, theirs), daemon=True)
    child.start()
    theirs.close()
    number, found = cases.start, None
    try:
        for number in cases:
            found = None
            found = _receive(ours)
            found |= _receive(ours)
            yield number, found
    except EOFError:
        child.join(1)
        if child.exitcode == 1:
            raise RuntimeError(f"case {number} of seed {seed}: the fuzzer itself failed, see above") from None
        yield number, {DIED_GUARDED} if found is None else found | {DIED_ALONE}
    finally:
        child.kill()
        child.join()
        ours.close()


def _receive(connection: Connection) -> set[str]:
    if not connection.poll(TIME_LIMIT_S):
        raise EOFError
    received: set[str] = connection.recv()
    return received


def _work(bench: Bench, seed: int, cases: range, connection: Connection) -> None:
    logging.disable(logging.CRITICAL)  # torch tells of every file that it does not like
    resource.setrlimit(resource.RLIMIT_AS, (_address_space_bytes() + _MORE_BYTES,) * 2)
    for number in cases:
        archive = bench.case(f"{seed}/{number}")
        connection.send(bench.behind_the_guard(archive))
        connection.send(bench.alone(archive))


def _address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="start", type=int, default=0, metavar="CASE", help="the first case")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    for number, found in fuzz(options.cases, options.seed, start=options.start):
        counts.update(found)
        if wrong := found.intersection(NEVER):
            print(f"case {number} of seed {options.seed}: {', '.join(sorted(wrong))}", flush=True)
    print(f"torch {torch.__version__}, seed {options.seed}\n{options.cases:>8} cases")
    for name in COUNTS:
        print(f"{counts[name]:>8} {name}")
    return int(any(counts[name] for name in NEVER))


if __name__ == "__main__":
    raise SystemExit(main())
