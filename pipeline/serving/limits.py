"""What a server may spend on its clients."""

from __future__ import annotations

from dataclasses import dataclass, fields

from export.errors import UserError

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """Bounds on requests, on waiting and on a call of the model."""

    body_mb: float = 64.0
    """The largest body, in MiB; what a compressed one unpacks to is held to the same."""
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
            if value < 0 or (value == 0 and field.name != "drain_s"):
                raise UserError(f"limits.{field.name} must be above 0, got {value}")

    @property
    def body_bytes(self) -> int:
        """``body_mb`` in bytes."""
        return int(self.body_mb * _MIB)
