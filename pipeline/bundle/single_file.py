"""``verify.py`` of a bundle: the parts of the check joined into one file that runs without this package."""

from __future__ import annotations

import ast
import re
from pathlib import Path

_PARTS = (
    "outcome", "files", "archives", "signature", "lineage", "needs", "onnx_file", "artifacts", "golden", "speed",
    "running", "report",
)  # fmt: skip
_HERE = Path(__file__).resolve().parents[1] / "verifier"


def single_file() -> str:
    """Source code: the command's head, the imports of all parts, every part, then the command."""
    command = (_HERE / "verify.py").read_text()
    head_ends = next(node.end_lineno or 0 for node in ast.parse(command).body if isinstance(node, ast.If))
    lines = command.splitlines(keepends=True)
    sources = [(_HERE / f"{name}.py").read_text() for name in _PARTS] + ["".join(lines[head_ends:])]
    imports: dict[str | None, set[str]] = {}
    bodies = [_without_imports(source, imports) for source in sources]
    plain = [f"import {name}" for name in sorted(imports.pop(None))]
    named = [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(imports.items(), key=str)]
    joined = "\n\n".join(["".join(lines[:head_ends]), "\n".join([*plain, *named]) + "\n", *bodies])
    return re.sub(r"\n{4,}", "\n\n\n", joined)


def _without_imports(source: str, imports: dict[str | None, set[str]]) -> str:
    """The rest of a part; what it imports, but from this package, goes into ``imports`` by module (None: itself)."""
    lines = source.splitlines(keepends=True)
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        module = node.module if isinstance(node, ast.ImportFrom) else None
        if not (module or "").startswith(("pipeline.", "__future__")):
            imports.setdefault(module, set()).update(alias.name for alias in node.names)
        assert node.end_lineno is not None
        lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "".join(lines).strip("\n") + "\n"
