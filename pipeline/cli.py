"""The command line: common options, a recipe's own settings as flags, and how a command ends.

Nothing is parsed by hand: the flags are derived from the dataclasses by tyro. The recipe comes first, since it decides
which flags there are and what their defaults are. ``--help`` alone imports no torch.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pipeline.process.shadow import claim_names

try:  # before the first import of ours that a file of the user's could hide
    claim_names(
        f"start with `{Path(sys.executable).name} -P -m pipeline...`, which leaves the current folder off the path"
    )
except ImportError as error:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from None

from export.errors import NO_SPACE, TorchstoneError, UserError
from export.version import VERSION
from pipeline.find import Found, find
from pipeline.process.guard import USAGE, guarded
from pipeline.recipes import built_in
from pipeline.verifier.outcome import printable_lines

DEFAULT_RECIPE = "seed"
GOOD, NOT_GOOD, INTERRUPTED = 0, 1, 130
_IN_THE_WAY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EIO})
"""What an ``OSError`` carries where the environment, and not we, is at fault."""
_STYLE = (tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff)

Stage = Literal["train", "capture", "build", "parity", "measure", "judge", "bundle"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that every recipe has."""

    out: Path = field(default=Path("artifacts"))
    """Where runs are kept."""
    device: str = "auto"
    """cpu, cuda, or one of several GPUs by its number: cuda:1; auto takes CUDA where it is usable."""
    seed: int | None = None
    """Governs everything random; the recipe's own if not given."""
    only: Stage | None = None
    """Stop after this stage; those before it are done or reused."""
    json: bool = False
    """Print the verdict as JSON, and nothing else."""
    quiet: bool = False
    """Print nothing but errors."""


def parse(arguments: Sequence[str], command: str) -> tuple[Found, Options]:
    """The recipe, changed by its flags, and the common options.

    Raises:
        UserError: no such recipe, or a value that it does not accept.
        SystemExit: after ``--help``, and for unknown flags.
    """
    named = bool(arguments) and not arguments[0].startswith("-")
    text, flags = (arguments[0], list(arguments[1:])) if named else (DEFAULT_RECIPE, list(arguments))
    if not named and {"-h", "--help"} & set(flags):
        tyro.cli(Options, args=["--help"], prog=f"{command} [RECIPE]", description=_overview(command), config=_STYLE)
    if late := [flag for flag in flags if flag in built_in() or flag.endswith(".py")]:
        raise UserError(f"the recipe comes first: {command} {late[0]} {' '.join(f for f in flags if f != late[0])}")
    located = find(text)
    from pipeline.recipe import Recipe

    bare = tyro.conf.arg(name="")  # ``--train.epochs``, not ``--recipe.train.epochs``
    fields = [("options", Annotated[Options, bare]), ("recipe", Annotated[Recipe, bare])]
    own_loop = located.recipe.train if callable(located.recipe.train) else None  # it has no flags
    shown = replace(located.recipe, train=None) if own_loop else located.recipe
    kind: Any = make_dataclass("Settings", fields, frozen=True)
    parsed = tyro.cli(
        kind,
        args=flags,
        default=kind(Options(), shown),
        prog=f"{command} {text}",
        description=f"Settings of the recipe {located.recipe.name!r}, with their defaults.",
        config=_STYLE,
    )
    recipe, options = parsed.recipe, parsed.options
    if own_loop:
        recipe = replace(recipe, train=own_loop)
    if options.seed is not None:
        recipe = replace(recipe, seed=options.seed)
    return replace(located, recipe=recipe), options


def end(command: Callable[[Sequence[str]], int], arguments: Sequence[str] | None = None) -> int:
    """Run a command; turn every way it can end into an exit code and a short message.

    ``arguments`` are the process's own if not given.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if [*given] == ["--version"]:
        print(f"torchstone {VERSION}")
        return GOOD
    speak_as_the_terminal_can()
    return guarded(lambda: _end(command, given))


def speak_as_the_terminal_can() -> None:
    """What a terminal's encoding does not have (the table's stars, a name) is printed as ``?``, and ends nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _end(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    try:
        return command(arguments)
    except KeyboardInterrupt:
        print("interrupted: what was done is kept, the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    except TorchstoneError as error:
        print(printable_lines(f"error: {error}"), file=sys.stderr)
    except BrokenPipeError:  # whoever read our output has gone, and needs no message
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _environment(error)
    except Exception:  # noqa: BLE001 - the last stop: whatever else arrives here is ours
        return _defect()
    return USAGE


def _environment(error: OSError) -> int:
    """What of the environment stands in the way; an error of another kind is ours."""
    where = error.filename2 or error.filename or "the output"  # the second is the target of a rename
    if error.errno in NO_SPACE:
        remedy = f"no space left for {where}: free some, then run the same command again"
    elif error.errno in _IN_THE_WAY:
        remedy = f"{where} cannot be used ({error.strerror}): make way there, or choose another --out"
    else:
        return _defect()
    print(printable_lines(f"error: {remedy}"), file=sys.stderr)
    return USAGE


def _defect() -> int:
    """Not 1, which says that a model was judged and found wanting."""
    traceback.print_exc()
    print("error: this is a defect of Torchstone: please report it with the lines above", file=sys.stderr)
    return USAGE


def _overview(command: str) -> str:
    recipes = "\n".join(f"  {name:<10} {text}" for name, text in built_in().items())
    return (
        "Train a model, export it every way, prove each export right, measure it, and say which one to ship.\n\n"
        f"RECIPE comes first ({DEFAULT_RECIPE} if left out): a built-in name, "
        "path/to/file.py[:function] or package.module[:function].\n"
        f"{recipes}\n\n"
        f"{command} RECIPE --help lists every setting of a recipe with its default."
    )
