"""Which dimensions move, and how far, as flags say it: ``ids:batch,length`` and ``length=1:512``."""

from __future__ import annotations

from collections.abc import Iterable

from export.errors import UserError
from export.signature import SizeRange

_FIXED = "_"


def parse_dynamic(texts: Iterable[str]) -> dict[str, tuple[str | None, ...]] | None:
    """``ids:batch,length`` as ``{"ids": ("batch", "length")}``; ``_`` is a dimension that does not move.

    None if nothing is said.

    Raises:
        UserError: another form, or an input that is named twice.
    """
    dynamic: dict[str, tuple[str | None, ...]] = {}
    for text in texts:
        name, colon, rest = text.partition(":")
        symbols = rest.split(",")
        if not name or not colon or not all(symbol.isidentifier() for symbol in symbols):
            raise UserError(
                f"--dynamic must be INPUT:DIMENSION,DIMENSION, such as ids:batch,length (_ does not move), got {text!r}"
            )
        if name in dynamic:
            raise UserError(f"--dynamic names {name!r} twice: say all of its dimensions at once")
        dynamic[name] = tuple(None if symbol == _FIXED else symbol for symbol in symbols)
    return dynamic or None


def parse_ranges(texts: Iterable[str]) -> dict[str, SizeRange]:
    """``length=32:512`` and ``height=32:640:32``, the last number being what every size is a multiple of.

    Raises:
        UserError: another form, or a range that no size lies in.
    """
    ranges: dict[str, SizeRange] = {}
    for text in texts:
        name, _, rest = text.partition("=")
        sizes = rest.split(":")
        if not name.isidentifier() or len(sizes) not in (2, 3) or not all(size.isdecimal() for size in sizes):
            raise UserError(
                f"--range must be NAME=MIN:MAX or NAME=MIN:MAX:MULTIPLE, such as length=1:512, got {text!r}"
            )
        least, most, *multiple = map(int, sizes)
        ranges[name] = SizeRange(min=least, max=most, multiple=multiple[0] if multiple else 1)
    return ranges
