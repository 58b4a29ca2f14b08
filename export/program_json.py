"""A program's JSON, parts of which torch runs as Python: refused where they could do more than name and count.

``torch.export.load`` evaluates symbolic sizes with SymPy, which calls ``eval``, imports the classes that a tree of
arguments names, and writes the names of tensors into the source of ``forward``; ``ExportedProgram.module`` runs the
guards. What a text is, the key says that it stands under. Names that a program chooses are keys too, but of objects:
no text that torch runs stands under one.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from functools import reduce
from typing import Any

import sympy
import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils._sympy import functions

_ORIGINS = {"stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "custom", "from_node"}
"""Where in the model's source a node is from: kept as text, never run."""
_NAME = re.compile(r"[\w.+*/ -]*")
"""No parenthesis, quote, comma or equals sign: nothing of Python that calls."""
_SYMBOLIC = re.compile(r"(_operator|math)\.\w+|torch\.sym_\w+|torch\._functorch\.predispatch\.\w+")
"""Functions of numbers and symbols; torch's own verifier knows which of them may be called."""
_ON_FILES = ("aten.from_file", "aten.save", "debugprims.")
"""Operators that read or write files."""
_EXPRESSION = re.compile(r"[\w .,'()\[\]+*/%<>=!&|^~-]*", re.ASCII)
_HARMLESS = (
    ast.Expression, ast.Load, ast.Call, ast.keyword, ast.Subscript, ast.IfExp, ast.Compare, ast.BoolOp, ast.BinOp,
    ast.UnaryOp, ast.cmpop, ast.boolop, ast.operator, ast.unaryop,
)  # fmt: skip
_IN_GUARDS = {"L", "math", "torch", "max", "min", "abs", "round", "int", "float"}
"""Names that guards use besides SymPy's: the inputs are ``L``."""
_OF_TENSORS = {"size", "stride", "storage_offset"}
_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


def check_json(value: Any, path: tuple[str, ...] = ()) -> None:
    """Look at every text in a JSON value that stands under these keys.

    Raises:
        ValueError: a text that torch could run.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            check_name(name)
            check_json(inner, (*path, name))
    elif isinstance(value, list):
        for inner in value:
            check_json(inner, path)
    elif isinstance(value, str) and not _is_kept(path):
        check: Callable[[str], None] = _RULES.get(path[-1], check_name)
        check(value)


def _is_kept(path: tuple[str, ...]) -> bool:
    """Whether torch never runs the text: it writes an argument of a node by its ``repr``, an input's value as it is."""
    is_argument = "nodes" in path and path[-2:-1] == ("arg",) and path[-1] in ("as_string", "as_strings")
    return is_argument or path[-1] in _ORIGINS


def check_name(text: Any) -> None:
    """Raises ValueError for what Python could take for more than a name."""
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise ValueError(f"torch could run {str(text)[:100]!r}, which stands where a name must")


def _check_target(text: str) -> None:
    if not _SYMBOLIC.fullmatch(text):
        _check_operator(text)


def _check_operator(text: str) -> None:
    operator: Any = None
    if re.fullmatch(r"torch\.ops(\.\w+){2,3}", text):
        try:
            operator = reduce(getattr, text.split(".")[1:], torch)
        except AttributeError:
            raise ValueError(f"{text} is not an operator here: import what registers it") from None
    if not isinstance(operator, OpOverload | HigherOrderOperator) or str(operator).startswith(_ON_FILES):
        raise ValueError(f"{text[:100]!r} is not an operator on tensors")


def _check_expression(text: str) -> None:
    """Sizes of inputs, numbers, symbols, and SymPy's functions of them."""
    if not _EXPRESSION.fullmatch(text) or not all(map(_is_harmless, ast.walk(ast.parse(text, mode="eval")))):
        raise ValueError(f"torch would run {text[:100]!r}, which is more than an expression of sizes")


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        value = getattr(functions, node.id, None) or getattr(sympy, node.id, None)
        is_symbolic = isinstance(value, sympy.Basic) or (isinstance(value, type) and issubclass(value, sympy.Basic))
        return is_symbolic or node.id in _IN_GUARDS
    if isinstance(node, ast.Attribute):
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        is_function = re.fullmatch(r"math\.[a-z]\w*|torch\._?sym_\w+", f"{owner}.{node.attr}")
        return bool(is_function) or node.attr in _OF_TENSORS
    if isinstance(node, ast.Constant):  # SymPy evaluates texts too
        is_number = node.value is None or isinstance(node.value, int | float)
        return is_number or (isinstance(node.value, str) and bool(re.fullmatch(r"\w*|[\d.e+-]*", node.value)))
    return isinstance(node, _HARMLESS)


def _check_tree(text: str) -> None:
    """How arguments are nested: tuples, lists and dictionaries, whose keys are the context."""
    _, spec = json.loads(text)
    ahead = [spec]
    while ahead:
        node = ahead.pop()
        keys = json.loads(node["context"] or "null") or []
        if node["type"] not in _TREES or not isinstance(keys, list):
            raise ValueError(f"torch would import what {node['type']!r} of {str(keys)[:100]} needs")
        for key in keys:
            check_name(key)  # torch writes it into the messages of guards
        ahead += node["children_spec"]


_RULES: dict[str, Callable[[str], None]] = {
    "target": _check_target,
    "as_operator": _check_operator,
    "expr_str": _check_expression,
    "guards_code": _check_expression,
    "in_spec": _check_tree,
    "out_spec": _check_tree,
}
