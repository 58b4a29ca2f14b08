"""A run: one recipe with one set of settings, on one machine, in its own folder; and how a stage is done at most once.

``artifacts/<recipe>/<key12>/`` is named after the SHA-256 of everything that the run depends on. Within it every stage
has a key of its own, over its own settings and its parents' content, so that a setting of a later stage never repeats
an earlier one: what another run of the same recipe has already made under the same key is taken over by hard links. A
stage is made in a hidden folder beside its place and moved there by one rename.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, cast

import filelock

from bench.run_folder import RunFolder
from export.environment import environment, version
from export.errors import RecordError, UserError
from export.files import FileDigest, digest_file, full_disk_named, publish, verify_files
from export.foreign import files as foreign_files
from export.record import Record, encode, from_json, key_of, read, to_json, write
from export.worker import ProcessLimits, Workspace
from pipeline.console import Console
from pipeline.find import Found
from pipeline.process.scratch import temporary_files
from pipeline.stages.tools import tools_sha256

KEY_DIGITS = 12
LATEST = "latest"
"""A symbolic link beside the runs of a recipe: to the one that was judged last."""
S = TypeVar("S", bound=Record)
T = TypeVar("T")
_SETTINGS = ("train", "backends", "foreign", "required", "parity", "bench", "limits", "process", "licence", "versions")


@dataclass(frozen=True, kw_only=True)
class RecipeRecord(Record):
    """``recipe.json``: everything that the run depends on; its key is the folder's name."""

    SCHEMA: ClassVar[str] = "torchstone.recipe/1"

    name: str
    function: str
    """``module:function``."""
    seed: int
    device: str
    signature: Any
    settings: dict[str, Any]
    source_sha256: dict[str, str]
    """Digests of the recipe's modules outside site-packages."""
    file_sha256: dict[str, str]
    """Digests of the files that the recipe names, by file name."""
    tool_sha256: dict[str, str]
    """Digests of Torchstone's own source, by what it shapes."""
    environment: Any

    @property
    def licence(self) -> str | None:
        """The model's, as an SPDX identifier."""
        return self.optional_setting("licence", str)

    def setting(self, name: str, kind: type[T]) -> T:
        """One of the settings, as what it was before it was written.

        Raises:
            RecordError: it is not there, or not of that kind.
        """
        return from_json(kind, self.settings.get(name), f"the setting {name!r} of the recipe {self.name}")

    def optional_setting(self, name: str, kind: type[T]) -> T | None:
        """The same of a setting that may be left open."""
        return None if self.settings.get(name) is None else self.setting(name, kind)


class StageRecord(Protocol):
    """A record that a stage folder holds."""

    key: str
    files: tuple[FileDigest, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """An open run."""

    found: Found
    device: str
    folder: Path
    record: RecipeRecord
    console: Console

    @property
    def files(self) -> RunFolder:
        """What lies where in it."""
        return RunFolder(self.folder)

    @cached_property
    def workspace(self) -> Workspace:
        """Where its children work; those that may see the model's source find it."""
        return replace(workspace_of(self.files, self.record), import_path=self.found.location.import_path)

    def key(
        self, stage: str, *, tools: tuple[str, ...], packages: tuple[str, ...] = ("torch", "numpy"), **parts: object
    ) -> str:
        """The key of a stage: its own settings and parents (``parts``), our code of it, the versions it rests on."""
        return key_of(
            stage=stage,
            tools={name: self.record.tool_sha256[name] for name in tools},
            versions={name: version(name) for name in packages},
            **parts,
        )

    def stage(
        self,
        target: Path,
        kind: type[S],
        name: str,
        key: str,
        make: Callable[[Path], object],
        *,
        keep_partial: bool = False,
        usable: Callable[[S], bool] = lambda record: True,
    ) -> tuple[S, bool]:
        """The record of a stage's folder, made only if no run of this recipe has it; and whether it was made.

        ``make`` fills a hidden folder, record included; ``keep_partial`` leaves that folder for the next try.
        A record that is not ``usable`` is made anew.
        """
        for place in self.places(target):
            record = self.good(place, kind, name, key)
            if record is None or not usable(record):
                continue
            if place != target:
                partial = fresh(target, "adopted")
                shutil.copytree(place, partial, copy_function=os.link, dirs_exist_ok=True)
                publish(partial, target)
            return record, False
        partial = _partial(target, key) if keep_partial else fresh(target, "partial")
        make(partial)
        publish(partial, target)
        return read(kind, target / name), True

    def has(self, target: Path, kind: type[S], name: str, key: str) -> bool:
        """Whether this run, or another of the same recipe, has a stage's folder under this key."""
        return any(self.good(place, kind, name, key) is not None for place in self.places(target))

    def places(self, here: Path) -> list[Path]:
        """Where a file or folder of this run may lie already: here, and in the other runs of the recipe."""
        where = here.relative_to(self.folder)
        others = sorted(run / where for run in self.folder.parent.iterdir() if not run.is_symlink())
        return [place for place in [here, *(other for other in others if other != here)] if place.exists()]

    def good(self, folder: Path, kind: type[S], name: str, key: str) -> S | None:
        """The record in a stage folder if it is whole, unaltered and of this key."""
        path = folder / name
        if not path.exists():
            return None
        try:
            record = read(kind, path)
            stage = cast(StageRecord, record)
            if stage.key != key:
                return None
            verify_files(folder, stage.files)
        except RecordError as error:
            self.console.say(f"rebuilt: {error}")
            return None
        return record


@contextlib.contextmanager
def open_run(located: Found, device: str, out: Path, console: Console) -> Iterator[Run]:
    """Make or open the run's folder, and hold its lock.

    Raises:
        UserError: ``out`` cannot be written, or another process works on this very run.
    """
    record = _recipe_record(located, device)
    key = key_of(recipe=to_json(record))
    folder = out.resolve() / record.name / key[:KEY_DIGITS]
    with held(folder, out):
        files = RunFolder(folder)
        if not _is_written(files.recipe_record, record):  # a damaged one too is what the folder's key says
            write(files.recipe_record, record)
        yield Run(found=located, device=device, folder=folder, record=record, console=console)


@contextlib.contextmanager
def held(folder: Path, called: Path | None = None) -> Iterator[None]:
    """Work in a run's folder alone, without what a killed process left there; temporary files lie in it too.

    ``called`` is what the user calls it.

    Raises:
        UserError: it cannot be written, or another process works in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(RunFolder(folder).lock)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UserError(
            f"another process works on this very run ({folder}): wait for it, or give this one its own --out"
        ) from error
    except OSError as error:
        raise UserError(
            f"the output folder {called or folder} cannot be used: {error.strerror}. Choose another with --out"
        ) from error
    try:
        _sweep(folder)
        with full_disk_named(folder), temporary_files(folder / ".tmp"):
            yield
    finally:
        lock.release()


def _is_written(path: Path, record: Record) -> bool:
    """Whether this very record lies there."""
    with contextlib.suppress(OSError):
        return path.read_bytes() == encode(record)
    return False


def set_link(folder: Path, name: str) -> None:
    """Point a symbolic link beside a run's folder at it, by one rename.

    Raises:
        UserError: something else has that name.
    """
    link, temporary = folder.parent / name, folder.parent / f".{name}.{os.getpid()}"
    if link.exists() and not link.is_symlink():
        raise UserError(f"{link} is there already, and is no name of a run: take another name")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    os.replace(temporary, link)


def workspace_of(files: RunFolder, record: RecipeRecord) -> Workspace:
    """Where the children of a run work, also of a finished one: within the recipe's limits, its source hidden from
    those that must do without it.
    """
    users = {name.partition(".")[0] for name in record.source_sha256}
    return Workspace(
        folder=files.log,
        limits=record.setting("process", ProcessLimits),
        hidden=tuple(sorted({"pipeline", *users})),
    )


def _recipe_record(located: Found, device: str) -> RecipeRecord:
    recipe = located.recipe
    missing = [str(path) for path in recipe.files if not path.is_file()]
    if missing:
        raise UserError(f"the recipe {recipe.name!r} names a file that is not there: {missing[0]}")
    return RecipeRecord(
        name=recipe.name,
        function=f"{located.location.module}:{located.location.function}",
        seed=recipe.seed,
        device=device,
        signature=to_json(recipe.signature),
        settings={name: to_json(recipe.setting(name)) for name in _SETTINGS},
        source_sha256=located.source_sha256,
        file_sha256={path.name: digest_file(path) for path in recipe.files} | foreign_files.sha256(recipe.artifacts),
        tool_sha256=tools_sha256(),
        environment=to_json(environment()),
    )


def _sweep(folder: Path) -> None:
    """Remove what a killed process left unfinished; the lock is held, so nobody else is at work on it.

    A training's hidden folder stays: the next one goes on from it.
    """
    for path in sorted(folder.rglob(".*")):
        if path.name == RunFolder(folder).lock.name or path.match(".checkpoint.*.partial"):
            continue
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path)


def fresh(target: Path, what: str) -> Path:
    """An empty hidden folder beside ``target``; what an interrupted run left there goes."""
    folder = target.parent / f".{target.name}.{what}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _partial(target: Path, key: str) -> Path:
    """A hidden folder beside ``target`` that survives an interruption, as long as the stage's key is the same."""
    folder = target.parent / f".{target.name}.{key[:KEY_DIGITS]}.partial"
    for stale in target.parent.glob(f".{target.name}.*.partial"):
        if stale != folder:
            shutil.rmtree(stale)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
