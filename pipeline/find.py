"""Finding a recipe by its name, its file or its module, and everything in source code that it depends on.

    seed                         pipeline/recipes/seed.py
    path/to/file.py[:function]   a file of the user's; its folder becomes importable
    package.module[:function]    a module of the user's, from the current folder or installed

The function is ``recipe`` unless named.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import gc
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from export.errors import UserError
from export.explanations import in_users_words
from export.record import sha256
from export.worker import ProcessLimits
from pipeline.process.guard import under_way
from pipeline.process.shadow import PACKAGES, namesakes
from pipeline.recipes import built_in

if TYPE_CHECKING:
    from pipeline.recipe import Recipe

_OURS = Path(__file__).resolve().parents[1]
_OUR_PACKAGES = ("torchstone", "pipeline", "export", "bench")


@dataclass(frozen=True, kw_only=True)
class RecipeLocation:
    """Where a recipe's function lies, such that another process finds it too."""

    module: str
    function: str
    file: str | None
    """Absolute; None for an importable module."""
    import_path: tuple[str, ...]
    """Folders that must be importable."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A recipe, and what its behaviour depends on."""

    recipe: Recipe
    location: RecipeLocation
    source_sha256: dict[str, str]
    """Digest of every module outside site-packages that the recipe imports, by module name."""


def locate(text: str) -> RecipeLocation:
    """Parse what the user typed.

    Raises:
        UserError: no such recipe, file or module; names what there is, and the nearest.
    """
    place, _, function = text.partition(":")
    function = function or "recipe"
    if place in built_in():
        return RecipeLocation(module=f"pipeline.recipes.{place}", function=function, file=None, import_path=())
    if place.endswith(".py") or "/" in place:
        path = Path(place).resolve()
        if not path.is_file():
            raise UserError(f"there is no recipe file {place}")
        return RecipeLocation(module=path.stem, function=function, file=str(path), import_path=(str(path.parent),))
    here = str(Path.cwd())
    if "." in place or ":" in text:
        return RecipeLocation(module=place, function=function, file=None, import_path=(here,))
    nearest = difflib.get_close_matches(place, built_in(), n=1)
    raise UserError(
        f"there is no recipe {place!r}"
        + (f": did you mean {nearest[0]!r}?" if nearest else "")
        + f"\nBuilt in: {', '.join(built_in())}. Your own: path/to/file.py[:function] or package.module[:function]."
    )


def find(text: str) -> Found:
    """The recipe behind what the user typed.

    Raises:
        UserError: it cannot be found, imported, or is no recipe.
    """
    location = locate(text)
    loaded_before = set(sys.modules)
    with under_way(f"the recipe {location.file or location.module}", ProcessLimits()):
        recipe = call(location)
    module = sys.modules[location.module]
    loaded = {name for name in set(sys.modules) - loaded_before if not name.startswith("__")}
    from export import registry

    plugins = registry.plugin_packages()  # loaded on the way; the user's only if the recipe's own text imports them
    names = {module.__name__} | {name for name in loaded if name.partition(".")[0] not in plugins}
    return Found(recipe=recipe, location=location, source_sha256=source_digests(names))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Whatever is imported meanwhile stays: to look through all of it for garbage, again and again, takes a fifth of
    the time of imports, and some of the time after them.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def call(location: RecipeLocation) -> Recipe:
    """Import a reference's module and call its function.

    Raises:
        UserError: the module cannot be imported, has no such function, or it returns something else.
    """
    with _uncollected():
        from pipeline.recipe import Recipe

        module = load_module(location, "recipe")
    function = getattr(module, location.function, None)
    where = location.file or location.module
    if not callable(function):
        raise UserError(
            f"{where} has no recipe: it must define a function {location.function!r} that returns a Recipe "
            f"(or name another: {where}:function)"
        )
    try:
        recipe = function()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the user's function may raise anything, and must not end us with 0
        raise UserError(f"the recipe {where}:{location.function} raised {in_users_words(error)}") from error
    if not isinstance(recipe, Recipe):
        raise UserError(
            f"{where}:{location.function} must return a pipeline.recipe.Recipe, got {type(recipe).__name__}"
        )
    return recipe


def load_module(location: RecipeLocation, what: str) -> ModuleType:
    """Import a location's module; ``what`` is what is looked for there.

    Raises:
        UserError: it cannot be imported; names a file of the user's that bears the name of a package of ours.
    """
    for folder in location.import_path:
        if folder not in sys.path:
            sys.path.insert(0, folder)
    where = location.file or location.module
    if location.file is not None and location.module in PACKAGES:
        raise UserError(f"{where} bears the name of a package of Torchstone: rename it")
    try:
        if location.file is None:
            return importlib.import_module(location.module)
        known = sys.modules.get(location.module)
        if known is not None and getattr(known, "__file__", None) == location.file:
            return known
        spec = importlib.util.spec_from_file_location(location.module, location.file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[location.module] = module
        spec.loader.exec_module(module)
        return module
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the user's module may raise anything as well
        because = _why_not_there(location, error)
        raise UserError(f"the {what} {where} cannot be imported: {in_users_words(error)}{because}") from error


def _why_not_there(location: RecipeLocation, error: BaseException) -> str:
    """What a person may not see in an error of an import: a package of ours in the way, or where was looked."""
    places = (place for folder in location.import_path for place in namesakes(Path(folder)))
    hidden = next((place for place in places if f"'{place.stem}" in str(error)), None)
    if hidden is not None:
        return f" ({hidden} bears the name of a package of Torchstone: rename it)"
    if isinstance(error, ModuleNotFoundError) and f"{location.module}.".startswith(f"{error.name}."):
        return f" (looked for in {', '.join(location.import_path)} and among what is installed)"
    return ""


def source_digests(names: Iterable[str]) -> dict[str, str]:
    """Digests of those modules that are the user's own, and of all that their source text imports, by name."""
    todo = [name for name in names if _is_users(name)]
    digests: dict[str, str] = {}
    while todo:
        name = todo.pop()
        path = _source_file(name)
        if name in digests or path is None:
            continue
        text = path.read_bytes()
        digests[name] = sha256(text)
        todo += [
            imported for imported in _imports(ast.parse(text), name) if imported not in digests and _is_users(imported)
        ]
    return dict(sorted(digests.items()))


def _is_users(name: str) -> bool:
    """Whether a module is the user's own: not installed, not of Python, not ours (but a built-in recipe is its own)."""
    if name.partition(".")[0] in _OUR_PACKAGES and not name.startswith("pipeline.recipes."):
        return False
    path = _source_file(name)
    if path is None:
        return False
    return name.startswith("pipeline.recipes.") or not any(path.is_relative_to(folder) for folder in _installed())


def users_folders(path: Iterable[str]) -> tuple[str, ...]:
    """Those of Python's path that hold the user's own modules, absolute."""
    folders = dict.fromkeys(Path(folder).resolve() for folder in path)
    held = (*_installed(), Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), _OURS)
    return tuple(
        str(folder) for folder in folders if folder.is_dir() and not any(folder.is_relative_to(own) for own in held)
    )


@functools.cache
def _installed() -> tuple[Path, ...]:
    """Where packages that are no part of a recipe lie; asked of every module that a recipe's text leads to.

    Not this environment's own folder alone: one for the user, or the system's below an environment, is on the path too.
    """
    others = (folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages"))
    return tuple(Path(folder).resolve() for folder in {*sysconfig.get_paths().values(), *others})


def _source_file(name: str) -> Path | None:
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
    else:
        try:
            spec = _spec(name)
        except (ImportError, ValueError, AttributeError):
            return None  # ``from package import value``: not a module
        file = spec.origin if spec else None
    path = Path(file) if file and file.endswith(".py") else None
    return path.resolve() if path and path.is_file() else None


def _spec(name: str) -> ModuleSpec | None:
    """Where a module lies, found without importing the packages above it: none of them need be whole."""
    reached, *parts = name.split(".")
    spec = importlib.util.find_spec(reached)
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return None
        reached = f"{reached}.{part}"
        folders = list(spec.submodule_search_locations)
        try:
            spec = PathFinder.find_spec(reached, folders)
        except KeyError:  # a folder without __init__.py, whose parent would have to be imported
            spec = ModuleSpec(reached, None, is_package=True)
            spec.submodule_search_locations = [f"{folder}/{part}" for folder in folders]
    return spec


def _imports(tree: ast.AST, name: str) -> Iterator[str]:
    """Names of the modules that a source text may import, those inside functions too."""
    package = name if _is_package(name) else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module or ""]))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _is_package(name: str) -> bool:
    path = _source_file(name)
    return path is not None and path.name == "__init__.py"
