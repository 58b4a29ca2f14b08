"""One call of a model for several requests, each of which gets its own rows, or its own error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pipeline.serving.protocol.refusal import Refusal

Arrays = list[np.ndarray[Any, Any]]
Outcome = Arrays | Exception


class Answering(Protocol):
    """What is called: see ``pipeline.serving.model.Model``."""

    name: str
    version: str
    joins: bool
    """Whether requests may share a call."""
    most_rows: int
    """The most rows of those that share one."""
    quick_rows: int
    """Rows up to which a call is done in the event loop; 0 if none is."""

    def __call__(self, arrays: Sequence[np.ndarray[Any, Any]]) -> Arrays:
        """One call."""
        ...

    def blame(self, arrays: Sequence[np.ndarray[Any, Any]]) -> Refusal | None:
        """What of a call that failed is the client's fault."""
        ...


@dataclass(slots=True)
class Waiting:
    """A request that waits for its answer."""

    arrays: Arrays
    rows: int
    deadline_s: float | None
    answer: asyncio.Future[Arrays]
    shapes: tuple[tuple[int, ...], ...] = field(init=False)
    """Without rows: requests that are alike in these can be joined."""

    def __post_init__(self) -> None:
        self.shapes = tuple([array.shape[1:] for array in self.arrays])


def outcomes(model: Answering, batch: Sequence[Waiting]) -> list[Outcome]:
    """What each request gets. Where a call for all fails each half is called for itself, and so on: one request at
    fault among n costs about 2 log2(n) calls, and no other fails with it.
    """
    try:
        return [model(batch[0].arrays)] if len(batch) == 1 else [*_joined(model, batch)]
    except Exception as error:  # noqa: BLE001 - each runtime fails in its own type
        if len(batch) == 1:
            return [error]
    middle = len(batch) // 2
    return outcomes(model, batch[:middle]) + outcomes(model, batch[middle:])


def _joined(model: Answering, batch: Sequence[Waiting]) -> list[Arrays]:
    """One call for all; each request gets its rows of every output."""
    columns = zip(*(waiting.arrays for waiting in batch), strict=True)
    outputs = model([np.concatenate(column) for column in columns])
    answers, begin = [], 0
    for waiting in batch:
        end = begin + waiting.rows
        answers.append([output[begin:end] for output in outputs])
        begin = end
    return answers
