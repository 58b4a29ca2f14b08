"""Records: frozen dataclasses kept as canonical JSON (RFC 8785), and the digests that chain them together.

A record class names its ``SCHEMA``; the file holds ``{"schema": ..., fields...}``. The field ``observed``, where a
record has one, carries times, hosts and durations and lies outside the record's digest, so that the same result has
the same digest wherever and whenever it was made. Non-finite numbers are written as the strings ``NaN``,
``Infinity`` and ``-Infinity``, which no text field may hold. A file is accepted only if encoding what was read gives
the very bytes that were read: an unknown, missing, doubled or reordered field is an error, not a guess. What else a
damaged or forged file holds (deep nesting, huge numbers, half a character, a path that leads elsewhere) is one too.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import threading
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec
import rfc8785

from export.errors import RecordError, TorchstoneError
from export.files import write_atomically

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_LARGEST_WHOLE = 2**53 - 1
"""The bound of RFC 8785: every whole number up to here is a float too."""
_RECORD_BYTES = 1 << 30
OMITTED = {"omitted": True}
"""Metadata of a field that is left out where it has its default: records from before it was added stay as they are."""

T = TypeVar("T")
_converting = threading.RLock()
"""msgspec 0.22 crashes where two threads convert to a dataclass that it has not met before."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Base of every record on disk; a subclass sets ``SCHEMA`` to ``torchstone.<what>/<version>``."""

    SCHEMA: ClassVar[str]


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What differs between two makings of the same thing; outside every digest."""

    at: str
    """When the work ended, UTC, ISO 8601."""
    duration_s: float
    host: str


def observed(duration_s: float) -> Observed:
    """Now and here; ``duration_s`` is the wall-clock time that the work took."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Observed(at=at, duration_s=round(duration_s, 3), host=platform.node())


def to_json(value: object) -> Any:
    """A dataclass (or a container of them) as plain JSON values, non-finite numbers as strings."""
    return _spell(msgspec.to_builtins(_without_omitted(value)))


def from_json(kind: type[T], value: object, where: str = "value") -> T:
    """The inverse of ``to_json``: strict about types.

    Raises:
        RecordError: a field is missing, of another type or of a value that it cannot have; the message names it and
            ``where``.
    """
    try:
        with _converting:
            return msgspec.convert(_unspell(value), kind, strict=True)
    except (msgspec.ValidationError, TorchstoneError, ValueError, OverflowError, RecursionError) as error:
        raise RecordError(f"{where} is not a {kind.__name__}: {error}") from error


def parse(data: bytes | str) -> Any:
    """JSON values as they were before they were written.

    RFC 8785 spells a float up to 1e21 without an exponent, so that a whole number beyond 2**53 is always a float.

    Raises:
        ValueError: not JSON, or nested deeper than any record.
    """
    try:
        return json.loads(data, parse_int=_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def encode(record: Record) -> bytes:
    """The canonical bytes of a record, ``observed`` included."""
    return rfc8785.dumps({"schema": record.SCHEMA, **to_json(record)})


def decode(kind: type[R], data: bytes, where: str = "record") -> R:
    """Read a record of ``kind`` from canonical bytes.

    Raises:
        RecordError: not JSON, of another schema, or not canonical for its schema.
    """
    try:
        fields = parse(data)
    except ValueError as error:
        raise RecordError(f"{where} is not JSON: {error}") from error
    if not isinstance(fields, dict) or fields.pop("schema", None) != kind.SCHEMA:
        raise RecordError(f"{where} must have the schema {kind.SCHEMA!r}")
    record = from_json(kind, fields, where)
    try:
        canonical = encode(record)
    except (ValueError, RecursionError) as error:  # a whole number beyond 2**53, half a character
        raise RecordError(f"{where} holds what no record can: {error}") from error
    if canonical != data:
        raise RecordError(f"{where} is not the canonical form of a {kind.SCHEMA} record: it was edited")
    return record


def digest(record: Record) -> str:
    """SHA-256 (hex) of a record's canonical bytes without ``observed``."""
    fields = to_json(record)
    fields.pop("observed", None)
    return sha256(rfc8785.dumps({"schema": record.SCHEMA, **fields}))


def sha256(data: bytes) -> str:
    """SHA-256 of bytes, hex."""
    return hashlib.sha256(data).hexdigest()


def key_of(**parts: object) -> str:
    """SHA-256 over named parts (dataclasses, strings, numbers, containers of them)."""
    return sha256(rfc8785.dumps(to_json(parts)))


def read(kind: type[R], path: Path) -> R:
    """Read one record file.

    Raises:
        RecordError: missing, unreadable or not a canonical record of ``kind``.
    """
    try:
        if (size_bytes := path.stat().st_size) > _RECORD_BYTES:
            raise RecordError(f"{path} has {size_bytes} bytes, more than any record")
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    return decode(kind, data, str(path))


def write(path: Path, record: Record) -> None:
    """Write one record atomically: the old file, or the whole new one, never a part."""
    write_atomically(path, encode(record))


def _without_omitted(value: object) -> Any:
    """Dataclasses as mappings, without the omitted fields that have their defaults."""
    if is_dataclass(value) and not isinstance(value, type):
        kept = (field for field in fields(value) if not field.metadata or getattr(value, field.name) != _default(field))
        return {field.name: _without_omitted(getattr(value, field.name)) for field in kept}
    if isinstance(value, dict):
        return {key: _without_omitted(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and value and not isinstance(value[0], int | float | str):
        return [_without_omitted(item) for item in value]
    return value  # numbers and texts hold no fields: the samples of a measurement are not walked one by one


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _number(text: str) -> int | float:
    value = float(text)  # infinite beyond what a float holds, which no canonical record spells so
    return int(text) if abs(value) <= _LARGEST_WHOLE else value


def _spell(value: Any) -> Any:
    """Non-finite numbers as strings; a text that looks like one is refused."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, str) and value in _NON_FINITE:
        raise RecordError(f"the text {value!r} is reserved for numbers in records: use another name")
    if isinstance(value, dict):
        return {key: _spell(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_spell(item) for item in value]
    return value


def _unspell(value: Any) -> Any:
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: _unspell(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unspell(item) for item in value]
    return value
