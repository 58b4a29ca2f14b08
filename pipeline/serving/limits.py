"""What a server may spend on its clients, and the memory that their requests hold together."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from export.errors import UserError
from pipeline.serving.protocol.refusal import overloaded

_MIB = 1 << 20
_AGAIN_S = 1.0
"""When a client may come back that found no memory."""


@dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """Bounds on requests, on waiting and on a call of the model."""

    body_mb: float = 64.0
    """The largest body, in MiB; what a compressed one unpacks to is held to the same."""
    held_mb: float = 1024.0
    """What all requests together may hold, in MiB: bodies, what they unpack to, tensors made of JSON; past it 503."""
    body_s: float = 10.0
    """How long a client may take to send a body."""
    waiting_requests: int = 1024
    """Requests of a model that may wait; one more is answered 503 with Retry-After."""
    call_s: float = 30.0
    """How long a call of the model may take: a model that takes longer is not ready until the call ends."""
    drain_s: float = 0.0
    """After SIGTERM: how long the server goes on as before while it says that it is not ready."""
    grace_s: float = 30.0
    """After that: how long requests that were accepted have to be answered."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < math.inf or (value == 0 and field.name != "drain_s"):
                raise UserError(f"limits.{field.name} must be above 0, got {value}")

    @property
    def body_bytes(self) -> int:
        """``body_mb`` in bytes."""
        return int(self.body_mb * _MIB)

    @property
    def held_bytes(self) -> int:
        """``held_mb`` in bytes."""
        return int(self.held_mb * _MIB)


class Budget:
    """Bytes that all requests of a server may hold; to be used in the event loop's thread."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.held_bytes = 0

    def take(self, count: int) -> None:
        """Hold so many bytes more.

        Raises:
            Refusal: 503, that would be too many.
        """
        if self.held_bytes + count > self._most_bytes:
            raise overloaded("the requests that wait hold too many bytes", _AGAIN_S)
        self.held_bytes += count

    def give_back(self, count: int) -> None:
        """Hold so many bytes less."""
        self.held_bytes -= count


class Share:
    """What one request holds of a budget."""

    __slots__ = ("_budget", "_bytes")

    def __init__(self, budget: Budget) -> None:
        self._budget, self._bytes = budget, 0

    def take(self, count: int) -> None:
        """As ``Budget.take``."""
        self._budget.take(count)
        self._bytes += count

    def end(self) -> None:
        """Give all of it back."""
        self._budget.give_back(self._bytes)
        self._bytes = 0
