"""Changes of a saved program, drawn at random: of its members, its directory, its JSON, and code planted in each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from tests.archives.forgeries import (
    CONSTANTS,
    FORGERIES,
    INPUTS,
    PROGRAM,
    WEIGHTS,
    beside,
    pickled,
    source,
    with_json,
)  # fmt: skip
from tests.archives.pack import Part, pack, parts_of

_NAMES = (
    INPUTS, PROGRAM, WEIGHTS, CONSTANTS, "data/weights/model.pt", "data/constants/model.pt", "data/weights/weight_0",
    "data/constants/opaque_obj_0", "data/constants/custom_obj_0", "extra/a", "version", "data/weights/a_config.json",
    "../a", "models/other.json", "data/sample_inputs/other.pt", "data/weights/weight_99", "byteorder",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    7,
    1 << 40,
    0.5,
    "",
    "x",
    "weight_1",
    "tensor_0",
    [],
    {},
    "NaN",
    [1, 2],
)


def mutated(program: bytes, draw: Random, ran: Path) -> bytes:
    """The program with one to three changes; code in it makes the folder ``ran``."""
    parts = parts_of(program)
    for _ in range(draw.choice((1, 1, 2, 3))):
        changed = draw.choice(_CHANGES)(parts, draw, ran)
        if isinstance(changed, bytes):
            return changed
        parts = changed
    around = {draw.choice(("before", "after", "comment")): draw.randbytes(draw.randint(1, 80))}
    archive = pack(parts, **(around if draw.random() < 0.05 else {}))
    return _damaged(archive, draw) if draw.random() < 0.1 else archive


def _forgery(parts: list[Part], draw: Random, ran: Path) -> list[Part] | bytes:
    """One of the known ways, whatever else was changed."""
    forgery = draw.choice([*FORGERIES.values()])
    try:
        return forgery.make(parts, ran)
    except (StopIteration, ValueError, LookupError, TypeError, AttributeError):
        return parts  # what it forges is gone, or is no JSON any more


def _payload(parts: list[Part], draw: Random, ran: Path) -> list[Part]:
    """A member becomes a pickle that runs."""
    place = draw.randrange(len(parts))
    return _with(parts, place, replace(parts[place], data=pickled(ran)))


def _named(parts: list[Part], draw: Random, ran: Path) -> list[Part]:
    """A member has another name, the same in other case or letters, or one that ends in nothing."""
    place = draw.randrange(len(parts))
    return _with(parts, place, replace(parts[place], name=_name(parts, draw)))


def _added(parts: list[Part], draw: Random, ran: Path) -> list[Part]:
    """One more member, which may have another's name, with code, with another's content or with a configuration."""
    config = {"config": {"w": {"path_name": "model.pt", "is_param": True, "use_pickle": False, "tensor_meta": None}}}
    data = draw.choice((pickled(ran), draw.choice(parts).data, json.dumps(config).encode()))
    place = draw.randint(0, len(parts))
    return [*parts[:place], Part(name=_name(parts, draw), data=data), *parts[place:]]


def _removed(parts: list[Part], draw: Random, ran: Path) -> list[Part]:
    place = draw.randrange(len(parts))
    return [*parts[:place], *parts[place + 1 :]] if len(parts) > 1 else parts


def _reordered(parts: list[Part], draw: Random, ran: Path) -> list[Part]:
    return draw.sample(parts, len(parts))


def _exchanged(parts: list[Part], draw: Random, ran: Path) -> list[Part]:
    """Two members have each other's content."""
    one, other = draw.randrange(len(parts)), draw.randrange(len(parts))
    parts = _with(parts, one, replace(parts[one], data=parts[other].data))
    return _with(parts, other, replace(parts[other], data=parts[one].data))


def _contradicted(parts: list[Part], draw: Random, ran: Path) -> list[Part]:
    """Directory and header say different things of a member, or things that torch does not write."""
    place = draw.randrange(len(parts))
    changes: dict[str, Any] = draw.choice(
        (
            {"header_name": _name(parts, draw)},
            {"told_bytes": draw.choice((0, 1, 3, 1 << 20, 0xFFFFFFFF, draw.randrange(2000)))},
            {"told_offset": draw.choice((0, 64, 0xFFFFFFFF, draw.randrange(20_000)))},
            {"flags": draw.choice((0, 1, 8, 0x800, 0x809, 0x2808))},
            {"method": draw.choice((8, 8, 12))},
            {"comment": draw.randbytes(4)},
            {"after": pack([Part(name=INPUTS.encode(), data=pickled(ran))])},
        )
    )
    return _with(parts, place, replace(parts[place], **changes))


def _edited(parts: list[Part], draw: Random, ran: Path) -> list[Part] | bytes:
    """A value somewhere in a JSON member is another, is code as text, or is gone; or a key is."""
    code = source(ran)
    texts = (
        code, f"x={code}", f"' + str({code}) + '", f'" + str({code}) + "'.replace("'", '"'), f"Symbol('{code}')",
        f"{code}\n", f"Max({code}, 1)", f"L['x'].size()[{code}] == 1", f"torch.ops.aten.relu.default({code})",
        "torch.os.mkdir", "torch.ops.aten.from_file.default", "_operator.methodcaller", "opaque_obj_0", "custom_obj_0",
        "weight_0", "model.pt", str(ran),
    )  # fmt: skip

    def change(value: Any, _: Path) -> None:
        for _step in range(60):
            if not value or not isinstance(value, dict | list):
                return
            key = draw.choice([*value]) if isinstance(value, dict) else draw.randrange(len(value))
            if isinstance(value[key], dict | list) and value[key] and draw.random() < 0.93:
                value = value[key]
                continue
            match draw.choice(("text", "text", "text", "value", "remove", "key", "flag")):
                case "text":
                    value[key] = draw.choice(texts)
                case "value":
                    value[key] = draw.choice(_VALUES)
                case "remove":
                    del value[key]
                case "key" if isinstance(value, dict):
                    value[draw.choice(texts)] = value.pop(key)
                case "flag" if isinstance(value, dict) and "use_pickle" in value:
                    value.update(use_pickle=draw.choice((True, 1, "x")), path_name=draw.choice(texts))
            return

    try:
        return with_json(draw.choice((PROGRAM, PROGRAM, WEIGHTS, CONSTANTS)), change)(parts, ran)
    except (StopIteration, ValueError):
        return parts


def _name(parts: list[Part], draw: Random) -> bytes:
    name = draw.choice((draw.choice(parts).name, beside(parts, draw.choice(_NAMES))))
    return draw.choice(
        (
            name, name, name.upper(), name.swapcase(), name.replace(b"s", "\N{LATIN SMALL LETTER LONG S}".encode()),
            name + b"\0", name + b"\0.json", b"/" + name, name.replace(b"/", b"//", 1), name.partition(b"/")[2] or b"a",
            name.replace(b"data", b"Data"), name + b" ", name[:-1] or b"a",
        )
    )  # fmt: skip


def _damaged(archive: bytes, draw: Random) -> bytes:
    """Cut off, bits flipped, bytes put in, or in two."""
    data = bytearray(archive)
    match draw.choice(("cut", "flip", "flip", "insert", "double")):
        case "cut":
            del data[draw.randrange(len(data)) :]
        case "flip":
            for _ in range(draw.randint(1, 8)):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        case "insert":
            place = draw.randrange(len(data))
            data[place:place] = draw.randbytes(draw.randint(1, 8))
        case "double":
            data += archive
    return bytes(data)


def _with(parts: list[Part], place: int, part: Part) -> list[Part]:
    return [*parts[:place], part, *parts[place + 1 :]]


_Change = Callable[[list[Part], Random, Path], "list[Part] | bytes"]
_CHANGES: tuple[_Change, ...] = (
    _forgery, _forgery, _forgery, _payload, _named, _added, _added, _removed, _reordered, _exchanged, _contradicted,
    _contradicted, _edited, _edited, _edited, _edited,
)  # fmt: skip
