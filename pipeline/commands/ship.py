"""Ship a run: put its bundle into a serving folder, as a new version beside the old, made current by one rename.

    python -m pipeline.ship RECIPE_OR_RUN --to DIR [options]
    python -m pipeline.ship --to DIR --rollback

Only what a good verdict chose ships, and only after the bundle's own check accepted it here. DIR holds the versions by
number, and ``current``, a symbolic link to the one that serves. Exit code 0: shipped; 1: the verdict is not good, or
the check refused; 2: usage or environment. What the current version is made of already is no new version.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from export import hints
from export.errors import UserError
from pipeline.cli import GOOD, NOT_GOOD

if TYPE_CHECKING:
    from bench.run_folder import RunFolder
    from bench.verdict.judge import Verdict
    from export.backend import LoadOptions
    from pipeline.bundle.target import Target
    from pipeline.bundle.writer import Lowered
    from pipeline.console import Console


@dataclass(frozen=True)
class Options:
    """What to ship, and where to."""

    run: tyro.conf.Positional[str | None] = None
    """A recipe (its latest run; it is run if there is none), a run's folder, or RECIPE@KEY."""
    to: Path = field(default=Path("serving"))
    """The serving folder."""
    also: tuple[str, ...] = ()
    """Artifacts to ship beside the winner and ONNX."""
    target_ort: str | None = None
    """The server's version of ONNX Runtime: model.onnx is lowered to what it loads, and checked in it."""
    storage_uri: str | None = None
    """Where KServe will find the bundle's Triton repository."""
    base_image: str | None = None
    """The image of Triton that the Dockerfile begins with, by tag or digest."""
    key: Path | None = None
    """Sign with this private key (PEM; its password in TORCHSTONE_KEY_PASSWORD)."""
    certificate: Path | None = None
    """The key's certificate, which the signature then carries."""
    chain: tuple[Path, ...] = ()
    """The certificates above it."""
    sigstore: bool = False
    """Sign with this machine's own identity, online."""
    keep: int = 5
    """Versions that stay."""
    rollback: bool = False
    """Make the version before the current one current again, and ship nothing."""
    version: int | None = None
    """With --rollback: this version."""
    out: Path = field(default=Path("artifacts"))
    """Where runs are kept."""
    quiet: bool = False
    """Print nothing but errors."""


def main(arguments: Sequence[str], command: str = "python -m pipeline.ship") -> int:
    """Make, sign, check, switch."""
    options = tyro.cli(
        Options, args=list(arguments), prog=command, description=__doc__,
        config=(tyro.conf.FlagCreatePairsOff,),
    )  # fmt: skip
    from pipeline.console import Console

    console = Console(quiet=options.quiet)
    if options.rollback:
        return _roll_back(options, console)
    if options.run is None:
        raise UserError(f"say what to ship: {command} RECIPE_OR_RUN --to DIR")
    if options.keep < 1:
        raise UserError(f"--keep must be >= 1, got {options.keep}")
    if options.base_image is not None:
        from pipeline.bundle.forms.kubernetes import check_image

        check_image(options.base_image)
    return _ship(_run(options.run, options), options, console)


def _run(text: str, options: Options) -> RunFolder:
    """The run's folder; a recipe without one is run first."""
    from pipeline.commands.named import find_run

    try:
        return find_run(text, options.out)
    except UserError:
        if "@" in text or Path(text).is_dir():
            raise
    from pipeline.find import find

    name = find(text).recipe.name
    if not (options.out / name / "latest").exists():
        command = [sys.executable, "-m", "pipeline.all", text, "--out", str(options.out)]
        if subprocess.run([*command, *(["--quiet"] if options.quiet else [])], check=False).returncode not in (0, 1):
            raise UserError(f"{text} could not be run: {hints.command('run', text)} says why")
    return find_run(name, options.out)


def _ship(run: RunFolder, options: Options, console: Console) -> int:
    """One more version in the serving folder, or none."""
    from bench.verdict.judge import Verdict
    from export.record import digest, key_of, read
    from pipeline.bundle import releases
    from pipeline.bundle.signing import Signer, sign
    from pipeline.bundle.target import temporary_environment
    from pipeline.bundle.writer import Choice, chosen_rows, make
    from pipeline.process.scratch import temporary_files
    from pipeline.stages.tools import tools_sha256
    from pipeline.verifier.outcome import Refused, Unable
    from pipeline.verifier.report import report
    from pipeline.verifier.running import Bounds
    from pipeline.verifier.verify import Request, verify

    verdict = read(Verdict, run.verdict)
    if not verdict.good:
        console.say(f"nothing is shipped: the verdict on {verdict.recipe} is not good: {'; '.join(verdict.reasons)}")
        return NOT_GOOD
    chosen_rows(verdict, options.also)
    choice = Choice(also=options.also, storage_uri=options.storage_uri, base_image=options.base_image)
    signer = Signer(key=options.key, certificate=options.certificate, chain=options.chain, sigstore=options.sigstore)
    key = key_of(
        stage="ship", tools=tools_sha256()["ship"], verdict=digest(verdict), choice=choice,
        target_ort=options.target_ort,
    )  # fmt: skip
    with ExitStack() as stack:
        folder = stack.enter_context(releases.opened(options.to))
        if not signer.asked and (version := _shipped_already(folder, key)) is not None:
            console.say(f"shipped     {options.to / 'current'} is version {version} already: nothing has changed")
            return GOOD
        stack.enter_context(temporary_files(releases.temporary(folder)))
        target = None
        if options.target_ort is not None:
            target = stack.enter_context(temporary_environment(options.target_ort, _onnx_options(verdict)))
        lowered = _lowered(run, verdict, target, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        findings: dict[str, object] = {}

        def fill(folder: Path) -> None:
            make(run, folder, key, choice, lowered)
            if signer.asked:
                sign(folder, signer)
            verify(folder, Request(bounds=Bounds(speed=False), origin_known=True, quiet=options.quiet), findings)
            if target is not None and (why := target.accepts(folder)) is not None:
                raise Refused(f"in onnxruntime {target.version}: {why}")

        try:
            version = releases.put(folder, fill, options.keep)
        except Refused as error:
            console.say(f"nothing is shipped, the bundle's own check refused it: {error}")
            return NOT_GOOD
        except Unable as error:
            raise UserError(str(error)) from error
    console.say("\n".join(report(findings)))
    if target is not None:
        how = f"lowered to opset {lowered.artifact.facts['opset']}" if lowered else "as it is"
        console.say(f"target      onnxruntime {target.version} accepts it, {how}")
    console.say(f"shipped     {options.to / 'current'} is version {version}")
    return GOOD


def _shipped_already(folder: Path, key: str) -> int | None:
    """The current version if it was made of the same, and is whole; a signature is always made anew."""
    from pipeline.bundle import releases
    from pipeline.verifier.files import MANIFEST, read_manifest, verify_files
    from pipeline.verifier.outcome import Refused

    version = releases.current(folder)
    if version is None:
        return None
    bundle = folder / str(version)
    try:
        manifest = (bundle / MANIFEST).read_bytes()
        if json.loads(manifest)["key"] != key:
            return None
        verify_files(bundle, read_manifest(manifest))
    except (Refused, OSError, LookupError, TypeError, ValueError):  # what is not whole is replaced by a new version
        return None
    return version


def _onnx_options(verdict: Verdict) -> LoadOptions:
    """How the ONNX artifact that a target is to load was judged."""
    from pipeline.bundle.writer import onnx_row

    row = onnx_row(verdict)
    if row is None or row.options is None:
        raise UserError(f"--target-ort: no ONNX artifact of {verdict.recipe} may ship")
    return row.options


def _lowered(run: RunFolder, verdict: Verdict, target: Target | None, folder: Path) -> Lowered | None:
    """The lowered ONNX, where the target wants one."""
    from pipeline.bundle.target import lower
    from pipeline.bundle.writer import onnx_row

    row = onnx_row(verdict)
    return lower(run, row, folder, target) if target is not None and row is not None else None


def _roll_back(options: Options, console: Console) -> int:
    """Check the older version's files, then make it current."""
    from pipeline.bundle import releases
    from pipeline.verifier.files import MANIFEST, read_manifest, verify_files
    from pipeline.verifier.outcome import Refused

    with releases.opened(options.to) as folder:
        version = options.version if options.version is not None else releases.previous(folder)
        if version not in releases.versions(folder):
            raise UserError(
                f"{folder} has no version {version}, it has {', '.join(map(str, releases.versions(folder)))}"
            )
        bundle = folder / str(version)
        try:
            verify_files(bundle, read_manifest((bundle / MANIFEST).read_bytes()))
        except (Refused, OSError) as error:
            console.say(f"version {version} is not whole, the current one stays: {error}")
            return NOT_GOOD
        releases.switch(folder, version)
    console.say(f"rolled back {options.to / 'current'} is version {version}")
    return GOOD
