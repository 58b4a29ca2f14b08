"""Sizes of dimensions as expressions over a signature's symbols: ``batch``, ``height // 2``, ``(length - 1) // 4``.

``?`` is a size that only the call itself decides. An expression is whole numbers, symbols, ``+ - * // %``, ``max`` and
``min``: records hold them, so nothing else is ever evaluated.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Mapping

from export.errors import UserError

UNKNOWN = "?"

Sizes = Mapping[str, int]
"""A size for every symbol: ``{"batch": 32}``."""

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., int]] = {"max": max, "min": min}
_TORCH_OPERATORS: dict[str, type[ast.operator]] = {
    "FloorDiv": ast.FloorDiv, "CleanDiv": ast.FloorDiv, "Mod": ast.Mod, "PythonMod": ast.Mod,
}  # fmt: skip
"""PyTorch's names of functions that Python has operators for."""
_TORCH_FUNCTIONS = {"Max": "max", "Min": "min"}
_LONGEST = 500
_MOST_NESTED = 20


def size_of(dim: int | str, sizes: Sizes) -> int | None:
    """A dimension's size where the symbols have ``sizes``; None where only the call decides.

    Raises:
        UserError: no expression, or one of a symbol that has no size.
        ZeroDivisionError: the expression has no value at these sizes.
    """
    if isinstance(dim, int):
        return dim
    if dim in sizes:
        return sizes[dim]
    return None if dim == UNKNOWN else _evaluate(_parsed(dim), sizes)


def check_expression(dim: str) -> None:
    """Whether a text is a dimension.

    Raises:
        UserError: it is not.
    """
    if dim != UNKNOWN and not dim.isidentifier():
        _parsed(dim)


def symbols_of(dim: int | str) -> set[str]:
    """The symbols that a dimension depends on."""
    if isinstance(dim, int) or dim == UNKNOWN:
        return set()
    if dim.isidentifier():  # as it is spelled: Python's own parser would make other letters of some
        return {dim}
    names = {node.id for node in ast.walk(_parsed(dim)) if isinstance(node, ast.Name)}
    return names - _FUNCTIONS.keys()


def from_torch(text: str, symbols: Mapping[str, str]) -> str:
    """PyTorch's spelling of a size over its own symbols, over those of the signature; ``?`` where it has none.

    ``symbols`` gives, for PyTorch's symbols, expressions over the signature's.
    """
    try:
        tree = _Spelled(symbols).visit(ast.parse(text, mode="eval"))
        spelled = ast.unparse(_simple(tree.body))
        _parsed(spelled)
    except (SyntaxError, UserError, RecursionError):
        return UNKNOWN
    return spelled


class _Spelled(ast.NodeTransformer):
    """PyTorch's functions as operators, its symbols as expressions."""

    def __init__(self, symbols: Mapping[str, str]) -> None:
        self._symbols = symbols

    def visit_Call(self, node: ast.Call) -> ast.AST:
        arguments = [self.visit(argument) for argument in node.args]
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in _TORCH_OPERATORS and len(arguments) == 2:
            return ast.BinOp(left=arguments[0], op=_TORCH_OPERATORS[name](), right=arguments[1])
        if name in _TORCH_FUNCTIONS:
            return ast.Call(func=ast.Name(id=_TORCH_FUNCTIONS[name], ctx=ast.Load()), args=arguments, keywords=[])
        raise UserError(f"{name} has no spelling as a size")

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in self._symbols:
            raise UserError(f"{node.id} is no size that the signature declares")
        return ast.parse(self._symbols[node.id], mode="eval").body


def _simple(node: ast.expr) -> ast.expr:
    """``4 * (height // 4)`` of a multiple of 4 is ``height``; only those are spelled so, see ``torch_symbols``."""
    if not isinstance(node, ast.BinOp):
        return node
    node.left, node.right = _simple(node.left), _simple(node.right)
    if isinstance(node.op, ast.Mult):
        for factor, quotient in ((node.left, node.right), (node.right, node.left)):
            if (
                isinstance(factor, ast.Constant)
                and isinstance(quotient, ast.BinOp)
                and isinstance(quotient.op, ast.FloorDiv)
                and isinstance(quotient.left, ast.Name)
                and isinstance(quotient.right, ast.Constant)
                and factor.value == quotient.right.value
            ):
                return quotient.left
    return node


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise UserError(f"a size has at most {_LONGEST} characters, got {len(text)}")
    try:
        body = ast.parse(text, mode="eval").body
        _refuse_other(body, 0)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"a size is '?', a name or whole numbers and names with + - * // %, got {text!r}") from None
    return body


def _refuse_other(node: ast.expr, depth: int) -> None:
    """Raise ValueError for anything that is no size."""
    if depth > _MOST_NESTED:
        raise ValueError
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return
        case ast.Name():
            return
        case ast.BinOp() if type(node.op) in _OPERATORS:
            parts = [node.left, node.right]
        case ast.UnaryOp(op=ast.USub()):
            parts = [node.operand]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and len(args) > 1:
            parts = args
        case _:
            raise ValueError
    for part in parts:
        _refuse_other(part, depth + 1)


def _evaluate(node: ast.expr, sizes: Sizes) -> int:
    match node:
        case ast.Constant(value=int() as value):
            return value
        case ast.Name(id=name):
            if name not in sizes:
                raise UserError(f"the symbol {name!r} has no size, there are {sorted(sizes)}")
            return sizes[name]
        case ast.BinOp():
            return _OPERATORS[type(node.op)](_evaluate(node.left, sizes), _evaluate(node.right, sizes))
        case ast.UnaryOp():
            return -_evaluate(node.operand, sizes)
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name](_evaluate(argument, sizes) for argument in args)
    raise AssertionError(ast.dump(node))
