"""How a request ends that is not answered."""

from __future__ import annotations


class Refusal(Exception):  # noqa: N818 - a request is refused, nothing broke
    """A status and a sentence for the client; nothing of it comes from the server's insides."""

    def __init__(self, status: int, reason: str, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        """In a word, for metrics and logs, which hold nothing that a client sent."""
        self.headers = headers


def invalid(message: str) -> Refusal:
    """The request breaks the protocol or the model's signature: 400."""
    return Refusal(400, "invalid", message)


def overloaded(message: str, retry_after_s: float) -> Refusal:
    """Too much is waiting: 503, and when to come back."""
    return Refusal(503, "overloaded", message, ((b"retry-after", str(max(1, round(retry_after_s))).encode()),))


def failed(message: str) -> Refusal:
    """The model does not answer: 503."""
    return Refusal(503, "failed", message)
