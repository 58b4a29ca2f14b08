"""The server's log: a JSON object a line, on standard error.

Of what clients sent it holds the request's id alone: of an exception its type and its place in the source, since its
text may quote a value. So many lines a second, and no more, come from one place.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime

_FIELDS = ("request_id", "status", "ms", "reason", "left_out")
_LINES_PER_S = 20
REQUEST = "request"
"""The event of a request that has ended."""


class JsonLines(logging.Formatter):
    """One record as one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Time (UTC, ISO 8601), level, event, the fields of a request, the type and place of an error."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info and (error := record.exc_info[1]) is not None:
            line["error"] = " from ".join(_types(error))
            frames = traceback.extract_tb(error.__traceback__)
            places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
            return json.dumps({**line, "traceback": places})
        return json.dumps(line)


class Bounded(logging.Filter):
    """Lets ``per_s`` lines a second through from each place in the source; the next one says how many were left out."""

    def __init__(self, per_s: int = _LINES_PER_S, *, unbounded: tuple[str, ...] = ()) -> None:
        """``unbounded`` are events of which every one was asked for."""
        super().__init__()
        self._per_s, self._unbounded = per_s, unbounded
        self._seen: dict[tuple[str, int], tuple[int, int]] = {}
        """By place the second, and how many lines it had."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is written."""
        if record.msg in self._unbounded:
            return True
        place, now = (record.pathname, record.lineno), int(record.created)
        second, count = self._seen.get(place, (now, 0))
        if now != second:
            if count > self._per_s:
                record.left_out = count - self._per_s
            second, count = now, 0
        self._seen[place] = (second, count + 1)
        return count < self._per_s


def log_to_stderr(*, log_all: bool) -> None:
    """Have this process's log, uvicorn's too, written so; ``log_all`` if every request is to have its line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(Bounded(unbounded=(REQUEST,) if log_all else ()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("pipeline.serving").setLevel(logging.INFO)


def _types(error: BaseException) -> Iterator[str]:
    """The error's type, then those of what it came of."""
    cause: BaseException | None = error
    while cause is not None:
        yield type(cause).__name__
        cause = cause.__cause__ or cause.__context__
