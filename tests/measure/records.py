"""Fuzzing of a run's records: whatever a file holds, the next command says one sentence about it, or makes it anew.

    python -m tests.measure.records RUN [--cases N] [--seed S]

Takes a finished run, and changes one of its records at a time: valid JSON with a value exchanged, removed, doubled or
made extreme, in canonical form again; or the bytes themselves. The record is then read, and with all others given to
what reads it after a run: judgement for a bundle. Anything but our own error is a defect, and so is an accepted verdict
that is not the run's own. Prints a line per kind of record; ends with the first defect.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785

from bench.parity.reference import Reference
from bench.parity.report import ParityReport
from bench.run_folder import RunFolder
from bench.timing.measurement import Measurement, SessionRecord
from bench.verdict.judge import Verdict
from export.artifact import Artifact, ProgramRecord
from export.errors import TorchstoneError
from export.record import Record, digest, parse, read
from pipeline.bundle.evidence import judged_verdict
from pipeline.bundle.record import Bundle, Manifest
from pipeline.run import RecipeRecord
from pipeline.training.checkpoint import Checkpoint

KINDS: dict[str, type[Record]] = {
    "recipe.json": RecipeRecord,
    "checkpoint/checkpoint.json": Checkpoint,
    "program/program.json": ProgramRecord,
    "artifacts/*/artifact.json": Artifact,
    "parity/reference/reference.json": Reference,
    "parity/*.json": ParityReport,
    "measurements/session.json": SessionRecord,
    "measurements/[!s]*.json": Measurement,
    "verdict.json": Verdict,
    "bundle/bundle.json": Bundle,
    "bundle/manifest.json": Manifest,
}
_EXTREMES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1e300, -1e300, 5e-324, 2**53 - 1, "", "NaN", "Infinity", "../../x", "/etc/passwd",
    "\x1b[2J", "\u202e", "a" * 5000, [], {}, [[]], {"": None}, ["NaN"],
)  # fmt: skip
_JUDGED_EVERY = 20
"""Judgement takes a hundred times as long as reading."""


@dataclass
class Tally:
    """What became of the cases of one kind of record."""

    cases_count: int = 0
    refused_count: int = 0
    read_count: int = 0
    judged_count: int = 0


class Defect(Exception):  # noqa: N818
    """A case that ended otherwise than it may."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def mutated(data: bytes, draw: random.Random) -> bytes:
    """A record's bytes, changed once to three times."""
    if draw.random() < 0.2:
        return _damaged(data, draw)
    document = parse(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        path = draw.choice([place for place in places(document) if place])
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        _change(holder, path[-1], document, draw)
        if not document:
            break
    try:
        return rfc8785.dumps(document)
    except (ValueError, RecursionError):
        return json.dumps(document).encode()


def _change(holder: Any, key: Any, document: Any, draw: random.Random) -> None:
    value = holder[key]
    kind = draw.choice(("extreme", "near", "near", "remove", "double", "graft", "rename"))
    if kind == "extreme":
        holder[key] = draw.choice(_EXTREMES)
    elif kind == "near" and isinstance(value, (int, float)) and not isinstance(value, bool):
        holder[key] = draw.choice((value + 1, value * 1.01, -value, value * 1e9, value / 1e9, 0))
    elif kind == "near" and isinstance(value, str):
        holder[key] = draw.choice((value[:-1], value + "x", value.upper(), value[::-1]))
    elif kind == "near":
        holder[key] = not value
    elif kind == "remove":
        del holder[key]
    elif kind == "double" and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(value))
    elif kind == "graft":
        source: Any = document
        for step in draw.choice(list(places(document))):
            source = source[step]
        holder[key] = copy.deepcopy(source)
    elif isinstance(holder, dict):
        holder[draw.choice(("x", "schema", "observed", "__class__"))] = holder.pop(key)


def _damaged(data: bytes, draw: random.Random) -> bytes:
    """Bytes changed, cut, doubled, or a document that no record is."""
    at, length = draw.randrange(len(data)), draw.randrange(1, 40)
    return draw.choice((
        data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :],
        data[:at],
        data[:at] + data[at + length :],
        data[:at] + data[at : at + length] * 2 + data[at + length :],
        b"[" * 100_000,
        data.replace(b'"schema"', b'"a":' + b"[" * 5000 + b"]" * 5000 + b',"schema"', 1),
        data[:-1] + b',"z":' + b"9" * 5000 + b"}",
        data.replace(b'":"', b'":"\\ud800', 1),
        b"\xff\xfe" + data,
        b"",
    ))  # fmt: skip


def check(run: RunFolder, path: Path, kind: type[Record], whole: Any, data: bytes, *, judged: bool) -> bool:
    """Read the changed record, and judge the run with it; whether it was read.

    Raises:
        Defect: an error that is not ours, without the file's name, or a verdict that is not the run's own.
    """
    path.write_bytes(data)
    accepted = True
    try:
        read(kind, path)
    except TorchstoneError as error:
        accepted = False
        if path.name not in str(error):
            raise Defect(f"the message does not name {path.name}: {error}") from error
    except Exception as error:
        raise Defect(f"reading {path.name}: {traceback.format_exc()}") from error
    if judged:
        try:
            verdict = judged_verdict(run)
        except TorchstoneError:
            return accepted
        except Exception as error:
            raise Defect(f"judging with {path.name}: {traceback.format_exc()}") from error
        if digest(verdict) != whole:
            raise Defect(f"another verdict was accepted after a change of {path.name}")
    return accepted


def fuzz(run: Path, cases_count: int, seed: int, say: Callable[[str], None]) -> dict[str, Tally]:
    """Change a copy of the run so many times; the tallies by kind."""
    draw, tallies = random.Random(seed), {pattern: Tally() for pattern in KINDS}
    with tempfile.TemporaryDirectory() as scratch:
        files = RunFolder(Path(shutil.copytree(run, Path(scratch) / "run", symlinks=True)))
        whole = digest(judged_verdict(files))
        found = {pattern: sorted(files.path.glob(pattern)) for pattern in KINDS}
        if missing := [pattern for pattern, paths in found.items() if not paths]:
            raise SystemExit(f"{run} has no {missing[0]}: give a finished run with a bundle")
        for number in range(cases_count):
            pattern = draw.choice(list(KINDS))
            path, tally = draw.choice(found[pattern]), tallies[pattern]
            kept, judged = path.read_bytes(), number % _JUDGED_EVERY == 0
            data = mutated(kept, draw)
            try:
                accepted = check(files, path, KINDS[pattern], whole, data, judged=judged)
            except Defect:
                say(f"case {number} of seed {seed}: {path.relative_to(files.path)} as {data[:2000]!r}")
                raise
            finally:
                path.write_bytes(kept)
            tally.cases_count += 1
            tally.refused_count += not accepted
            tally.read_count += accepted
            tally.judged_count += judged
    return tallies


def main() -> int:
    """Fuzz, and print what became of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tallies = fuzz(options.run, options.cases, options.seed, print)
    print("| record | cases | refused | read | judged with the run |\n|---|--:|--:|--:|--:|")
    for pattern, tally in tallies.items():
        counts = (tally.cases_count, tally.refused_count, tally.read_count, tally.judged_count)
        print(f"| {pattern} | {' | '.join(map(str, counts))} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
