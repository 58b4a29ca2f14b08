"""Files of fewer bits than the model has, as converters to half precision make them: ``float16 from float32``.

They cannot be held to the model's own rounding; of a model that is itself in half precision its files can.
"""

from __future__ import annotations

_BITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
"""Bits of a significand, the hidden one included."""
HALVES = ("bfloat16", "float16")
"""The coarser first."""
_FROM = " from "


def narrowed(kinds: str | None, model: str) -> str | None:
    """The precision of a file whose weights are of these ``kinds`` (``float16+float32``), of a model of others."""
    halves = {*(kinds or "").split("+")} & {*HALVES}
    return f"{kinds}{_FROM}{model}" if halves - {*model.split("+")} else kinds


def half_of(precision: str) -> str | None:
    """The coarsest half precision of a file that was narrowed; None of another."""
    kinds = precision.partition(_FROM)[0].split("+") if _FROM in precision else []
    return next((half for half in HALVES if half in kinds), None)


def coarser(precision: str) -> float:
    """How many times coarser the roundings of a narrowed file are than the model's own."""
    model = precision.partition(_FROM)[2].split("+")
    return float(
        2 ** (min(_BITS.get(kind, _BITS["float32"]) for kind in model) - _BITS[half_of(precision) or "float32"])
    )
