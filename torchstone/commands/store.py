"""The runs under an output folder: what each came to, what it takes on disk, and whether a process works in it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock

from bench.run_folder import RunFolder
from export.errors import RecordError, UserError
from export.record import from_json, key_of, parse
from pipeline.run import KEY_DIGITS, LATEST

_KEY = re.compile(f"[0-9a-f]{{{KEY_DIGITS}}}")
_GIVEN = re.compile(f"given_({_KEY.pattern})")
"""The module that reads a model which was given instead of a recipe (pipeline/live/given.py)."""
_SCHEMA = "torchstone.recipe/"
_BLOCK_BYTES = 512
"""The unit of ``st_blocks``."""


@dataclass(frozen=True)
class Inode:
    """What a name on disk leads to; runs of a recipe share files by hard links."""

    device: int
    number: int
    links_count: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """One run."""

    recipe: str
    key: str
    """The folder's name."""
    folder: Path
    given: Path | None
    """The folder of the module that was given instead of a recipe, which runs of other settings may share."""
    changed_at: str
    """When a file of it last changed, UTC, ISO 8601."""
    is_latest: bool
    """Whether ``latest`` leads to it."""
    tags: tuple[str, ...]
    """Names that lead to it (torchstone/commands/tag.py)."""
    is_held: bool
    """Whether a living process works in it."""
    good: bool | None
    """None where nothing was judged."""
    winner: str | None
    inodes: frozenset[Inode]

    @property
    def size_bytes(self) -> int:
        """What it takes on disk, what it shares with other runs included."""
        return sum(inode.size_bytes for inode in self.inodes)


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    good: bool | None
    winner: str | None


def stored_runs(out: Path, recipes: Sequence[str] = ()) -> list[StoredRun]:
    """The runs of these recipes, or of all, by recipe and from the oldest to the newest.

    A run is a folder that is named after the content of the recipe's record in it; nothing else is one, and symbolic
    links are not followed.

    Raises:
        UserError: there is no such folder, or no run of a recipe that is named.
    """
    if not out.is_dir():
        raise UserError(f"there is no folder {out}: name the one where runs are kept, --out FOLDER")
    names = [folder.name for folder in _folders(out.resolve())]
    if absent := [recipe for recipe in recipes if recipe not in names]:
        raise UserError(f"{out} has no run of {absent[0]!r}, it has runs of {', '.join(names) or 'nothing'}")
    runs = (
        _read(folder)
        for recipe in _folders(out.resolve())
        if not recipes or recipe.name in recipes
        for folder in _folders(recipe)
    )
    return sorted(filter(None, runs), key=lambda run: (run.recipe, run.changed_at))


def freed_bytes(removed: Sequence[Path]) -> int:
    """What removing these folders gives back: a file goes when its last name goes."""
    names = Counter(inode for folder in removed for inode, _ in _files(folder))
    return sum(inode.size_bytes for inode, count in names.items() if count >= inode.links_count)


def _read(folder: Path) -> StoredRun | None:
    """The run in a folder; None if it is none."""
    files = RunFolder(folder)
    try:
        record = parse(files.recipe_record.read_bytes())
        schema = record.pop("schema")
        is_run = schema.startswith(_SCHEMA) and key_of(recipe=record)[:KEY_DIGITS] == folder.name
        function, name = str(record["function"]), record["name"]
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecordError):
        return None
    if not is_run or name != folder.parent.name or not _KEY.fullmatch(folder.name):
        return None
    outcome, given = _outcome(files), _given(folder, function)
    entries = [*_files(folder), *(_files(given) if given else ())]
    names = _names(folder)
    return StoredRun(
        recipe=name,
        key=folder.name,
        folder=folder,
        given=given,
        changed_at=datetime.fromtimestamp(max(at_s for _, at_s in entries), UTC).isoformat(timespec="seconds"),
        is_latest=LATEST in names,
        tags=tuple(name for name in names if name != LATEST),
        is_held=_is_held(folder),
        good=outcome.good,
        winner=outcome.winner,
        inodes=frozenset(inode for inode, _ in entries),
    )


def _outcome(files: RunFolder) -> _Outcome:
    """What the verdict says, of whichever schema; nothing where there is none, or it is damaged."""
    try:
        fields = parse(files.verdict.read_bytes())
        return from_json(_Outcome, {name: fields[name] for name in ("good", "winner")}, str(files.verdict))
    except (OSError, ValueError, KeyError, TypeError, RecordError):
        return _Outcome(good=None, winner=None)


def _given(folder: Path, function: str) -> Path | None:
    """Where the module of a run lies that was given instead of a recipe."""
    match = _GIVEN.fullmatch(function.partition(":")[0])
    place = folder.parent / "given" / match[1] if match else None
    return place if place is not None and place.is_dir() and place.resolve() == place else None


def _names(folder: Path) -> list[str]:
    """The symbolic links beside a run that lead to it, sorted."""
    beside = (place for place in folder.parent.iterdir() if not place.name.startswith("."))
    return sorted(place.name for place in beside if place.is_symlink() and place.readlink().name == folder.name)


def _is_held(folder: Path) -> bool:
    """Whether another process has the run's lock."""
    lock = filelock.FileLock(RunFolder(folder).lock)
    if not Path(lock.lock_file).exists():
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError:  # not ours to lock, such as an archive: nor will it be to remove
        return False


def _folders(folder: Path) -> Iterator[Path]:
    """The visible folders in a folder, sorted, without symbolic links."""
    for place in sorted(folder.iterdir()):
        if place.is_dir() and not place.is_symlink() and not place.name.startswith("."):
            yield place


def _files(folder: Path) -> Iterator[tuple[Inode, float]]:
    """Every file below a folder, and when it last changed (s); links are not followed, what vanishes is left out."""
    for base, _, names in os.walk(folder):
        for name in names:
            if name == RunFolder(folder).lock.name:  # touched by whoever asks for it
                continue
            try:
                state = Path(base, name).lstat()
            except FileNotFoundError:
                continue
            yield Inode(state.st_dev, state.st_ino, state.st_nlink, _size_bytes(state)), state.st_mtime


def _size_bytes(state: os.stat_result) -> int:
    blocks = getattr(state, "st_blocks", None)  # Windows has none
    return state.st_size if blocks is None else blocks * _BLOCK_BYTES
