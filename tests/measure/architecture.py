"""The order of the source in figures: sizes, import circles, scattered facts, old words; none may get worse.

    python -m tests.measure.architecture [--json] [--where FIGURE] [--root DIR]
    python -m tests.measure.architecture --check     exit code 1 where a figure is worse than the accepted one
    python -m tests.measure.architecture --accept    writes architecture.json beside this file, and the page of docs/
    python -m tests.measure.architecture --markdown BEFORE.json AFTER.json

All figures but the lines of source are counts of places that ought not to be there; ``--where`` lists those of one.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.conftest import ROOT

ACCEPTED = Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs" / "measured" / "architecture.md"
BEFORE = ROOT / "docs" / "measured" / "architecture-before.json"
PACKAGES = ("torchstone", "pipeline", "export", "bench")
LINES = "lines of source in "
"""How figures begin that may grow."""
MOST_PARAMETERS, MOST_FILES = 7, 15
RUN_PATHS = {
    "parity", "artifacts", "measurements", "verdict.json", "recipe.json", "checkpoint", "program", "reference",
}  # fmt: skip
"""Names of files and folders inside a run."""
RUN_FOLDER = "bench/run_folder.py"
"""The one file that may spell them."""
OLD_WORDS = {
    "desk": "desks?",
    "papers": "papers",
    "told": "told",
    "nulls": "nulls|null variants?",
    "beyond": "beyond",
    "prove": "prove[sdn]?|proving|provers?|reprov(e[sd]?|ing)",
    "weigh": "weigh(s|ed|ing)?",
    "Able": "(?-i:Able)",
    "Lost": "(?-i:Lost)",
    "crowd": "crowds?",
    "twin": "twins?",
    "shelf": "shelf|shelves",
    "card": "(?<!model )cards?",
    "throw away": "throw[ -]away",
    "lossy": "lossy",
    "widen": "widen(s|ed|ing)?",
    "crossed": "crossed",
    "mutate": "mutat(e[sd]?|ing|ions?)",
    "is no plain file": "no plain file",
    "made again": "made again",
    "doubtful": "doubtful",
    "on the front": "on the front",
    "the house": "the house",
}
"""Words that were replaced by those of the field (docs/glossary.md), and what counts as one of them."""
OLD_TERMS = r"honest variants?|null variants?|calibration kernel|golden samples?|desk|provers?|reprov\w+"
"""Old words that are nobody's plain English: counted in docstrings and comments too."""
FAMILIES = ("export/backends/", "export/registry.py", "export/exporters/")
BACKENDS = ("torchscript", "exported", "aotinductor", "onnx-legacy", "onnx-fp16", "onnx-int8", "openvino-int8")
"""Names that nothing but a backend bears."""
DTYPES = ("export/tensor.py", "pipeline/bundle/forms/triton_config.py", "pipeline/shipping/triton.py")
"""Files with a table of all dtypes: there int8 is no precision of an artifact."""
PRECISIONS = ("int8",)
LEVELS = ("bench/parity/levels/", "bench/parity/contents/")
VAGUE_NAMES = ("one", "found", "told", "ours", "theirs", "mine")


@dataclass(frozen=True)
class Source:
    """One file, parsed."""

    path: str
    """Relative to the root, POSIX."""
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return [*ast.walk(self.tree)]

    @cached_property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def strings(self) -> list[ast.Constant]:
        return [node for node in self.nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]

    @cached_property
    def docstrings(self) -> set[ast.expr]:
        """Strings that stand as statements: docstrings, and what describes a field or a constant."""
        return {node.value for node in self.nodes if isinstance(node, ast.Expr)} & {*self.strings}

    def words(self) -> Iterator[tuple[str, int]]:
        """Every identifier and every string that is no docstring, each with its line."""
        yield from ((str(node.value), node.lineno) for node in self.strings if node not in self.docstrings)
        for node in self.nodes:
            for field in ("id", "attr", "arg", "name", "asname", "module"):
                if isinstance(name := getattr(node, field, None), str):
                    yield name, getattr(node, "lineno", 0)


def sources(root: Path, *folders: str) -> list[Source]:
    files = sorted(path for folder in folders for path in (root / folder).rglob("*.py") if "golden" not in path.parts)
    return [Source(path.relative_to(root).as_posix(), path.read_text()) for path in files]


def places(root: Path) -> dict[str, list[str]]:
    """By figure, where in the source it stands."""
    code = sources(root, *PACKAGES)
    run_paths = [place for source in code if source.path != RUN_FOLDER for place in _run_paths(source)]
    named = [(source, word, line) for source in code for word, line in source.words()]
    spoken = [(*place, _apart(place[1])) for place in named]
    return {
        "files above 250 lines": [source.path for source in code if len(source.text.splitlines()) > 250],
        "files above 320 lines": [source.path for source in code if len(source.text.splitlines()) > 320],
        f"folders of more than {MOST_FILES} Python files": _full_folders(sources(root, *PACKAGES, "tests")),
        "circles of imports": _circles(code, type_checking=False),
        "circles of imports, those for type checking among them": _circles(code, type_checking=True),
        f"functions of more than {MOST_PARAMETERS} parameters": [place for source in code for place in _wide(source)],
        "files that name cuda": sorted({source.path for source, word, _ in named if "cuda" in word}),
        "files that name a backend, besides its family's": _spelling(
            [source for source in code if not source.path.startswith(FAMILIES)], BACKENDS
        ),
        "files that name a precision, besides its exporter's": _spelling(
            [source for source in code if not source.path.startswith((*FAMILIES, *DTYPES))], PRECISIONS
        ),
        "files that name a level of parity, besides its own": sorted(
            {source.path for source in code if not source.path.startswith(LEVELS) for _ in _levels(source)}
        ),
        "places that spell a run's path": run_paths,
        "files that spell a run's path": sorted({place.partition(":")[0] for place in run_paths}),
        **{
            f"old word: {old}": [
                f"{source.path}:{line} {word!r}"
                for source, word, line, apart in spoken
                for _ in re.finditer(rf"\b({pattern})\b", apart, flags=re.IGNORECASE)
            ]
            for old, pattern in OLD_WORDS.items()
        },
        "old terms, in docstrings and comments too": [
            f"{source.path}:{number} {line.strip()}"
            for source in code
            for number, line in enumerate(source.text.splitlines(), start=1)
            if re.search(rf"\b({OLD_TERMS})\b", line, flags=re.IGNORECASE)
        ],
        **{f"variable named {name}": [p for source in code for p in _variables(source, name)] for name in VAGUE_NAMES},
        "docstrings that begin with Of": [
            f"{source.path}:{node.lineno}"
            for source in code
            for node in source.strings
            if node in source.docstrings and str(node.value).startswith("Of ")
        ],
    }


def figures(root: Path) -> dict[str, int]:
    """The lines of source by package, and the count of each kind of place."""
    lines = {
        LINES + folder: sum(len(source.text.splitlines()) for source in sources(root, folder))
        for folder in (*PACKAGES, "tests")
    }
    return lines | {name: len(found) for name, found in places(root).items()}


def worse(now: dict[str, int], accepted: dict[str, int]) -> list[str]:
    """What got worse, as sentences; a figure that is not accepted yet must be 0."""
    return [
        f"{name}: {count}, at most {accepted.get(name, 0)} accepted; "
        f"`python -m tests.measure.architecture --where {name!r}` lists them"
        for name, count in now.items()
        if not name.startswith(LINES) and count > accepted.get(name, 0)
    ]


def table(before: dict[str, int], after: dict[str, int]) -> str:
    """Both columns as Markdown."""
    names = [*after, *(name for name in before if name not in after)]
    rows = [f"| {name} | {before.get(name, '')} | {after.get(name, '')} |" for name in names]
    return "\n".join(["| figure | before | after |", "|---|--:|--:|", *rows]) + "\n"


def _spelling(code: list[Source], names: tuple[str, ...]) -> list[str]:
    """Files with one of these names as a whole string."""
    return sorted({source.path for source in code for string in source.strings if string.value in names})


def _levels(source: Source) -> Iterator[ast.AST]:
    """Where a check's level is written down or asked for: ``level="metric"``, ``check.level == "metric"``."""
    for node in source.nodes:
        if isinstance(node, ast.keyword) and node.arg == "level" and isinstance(node.value, ast.Constant):
            yield node
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr == "level":
            yield from (side for side in node.comparators if isinstance(side, ast.Constant))


def _apart(word: str) -> str:
    """An identifier as the words it is made of; a message is left as it is."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", word)


def _full_folders(code: list[Source]) -> list[str]:
    counts: dict[str, int] = {}
    for source in code:
        folder, _, name = source.path.rpartition("/")
        counts[folder] = counts.get(folder, 0) + (name != "__init__.py")
    return [f"{folder} {count}" for folder, count in counts.items() if count > MOST_FILES]


def _wide(source: Source) -> Iterator[str]:
    """Functions with too many parameters; self, cls, ``*args`` and ``**kwargs`` are not counted."""
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = sum(parameter.arg not in ("self", "cls") for parameter in parameters)
            if count > MOST_PARAMETERS:
                yield f"{source.path}:{node.lineno} {node.name} {count}"


def _run_paths(source: Source) -> Iterator[str]:
    """Strings used as parts of a run's path: operands of ``/``, and strings that are paths themselves."""
    operands = {
        part
        for node in source.nodes
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        for side in (node.left, node.right)
        for part in (ast.walk(side) if isinstance(side, ast.JoinedStr) else [side])
    }
    for node in source.strings:
        text = str(node.value)
        is_path = node in operands or re.fullmatch(r"[\w.*-]*(/[\w.*-]*)+", text)
        if is_path and node not in source.docstrings and RUN_PATHS & {*text.split("/")}:
            yield f"{source.path}:{node.lineno} {text!r}"


def _variables(source: Source, name: str) -> Iterator[str]:
    for node in source.nodes:
        if isinstance(node, ast.Name | ast.arg) and name == (node.id if isinstance(node, ast.Name) else node.arg):
            yield f"{source.path}:{node.lineno}"


def _circles(code: list[Source], *, type_checking: bool) -> list[str]:
    """Sets of modules each of which imports, over others, itself; imports inside functions are late, and no circle."""
    modules = {source.module for source in code}
    edges = {source.module: set(_imports(source.tree.body, modules, type_checking)) for source in code}
    reach = {module: _reachable(module, edges) for module in modules}
    circles = {frozenset(other for other in reach[module] if module in reach[other]) for module in modules}
    return sorted(", ".join(sorted(circle)) for circle in circles if circle)


def _imports(body: list[ast.stmt], modules: set[str], type_checking: bool) -> Iterator[str]:
    """The modules that statements import when they are run, or also when types are checked."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield from {name if name in modules else node.module} & modules
        elif isinstance(node, ast.If):
            skipped = "TYPE_CHECKING" in ast.unparse(node.test) and not type_checking
            yield from _imports([*([] if skipped else node.body), *node.orelse], modules, type_checking)
        elif isinstance(node, ast.Try):
            yield from _imports([*node.body, *node.orelse, *node.finalbody], modules, type_checking)


def _reachable(module: str, edges: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    ahead = [*edges[module]]
    while ahead:
        if (name := ahead.pop()) not in reached:
            reached.add(name)
            ahead.extend(edges.get(name, ()))
    return reached


def _read(path: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads(path.read_text())
    return found


def _accept(now: dict[str, int]) -> None:
    ACCEPTED.write_text(json.dumps(now, indent=2) + "\n")
    heading, _, _ = PAGE.read_text().partition("| figure")
    PAGE.write_text(heading + table(_read(BEFORE), now))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree that is measured")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--where", metavar="FIGURE", help="print the places of one figure")
    parser.add_argument(
        "--check", action="store_true", help="exit code 1 where a figure is worse than the accepted one"
    )
    parser.add_argument("--accept", action="store_true", help="write the figures as the accepted ones, and the page")
    parser.add_argument("--markdown", nargs=2, type=Path, metavar=("BEFORE", "AFTER"), help="two files as a table")
    options = parser.parse_args()
    if options.markdown:
        print(table(*map(_read, options.markdown)), end="")
        return 0
    if options.where:
        print(*places(options.root)[options.where], sep="\n")
        return 0
    now = figures(options.root)
    if options.accept:
        _accept(now)
    if options.check:
        problems = worse(now, _read(ACCEPTED))
        print(*problems, sep="\n")
        return int(bool(problems))
    if options.json:
        print(json.dumps(now, indent=2))
    else:
        print(*(f"{count:>7}  {name}" for name, count in now.items()), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
