"""Who may ask: programs of this machine, or whoever has the key."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from export.errors import UserError
from pipeline.serving.protocol.refusal import Refusal

_LEAST_LENGTH = 16
_BEARER = b"bearer "


@dataclass(frozen=True)
class Access:
    """The keys that open the server; without any only this machine's own programs are answered."""

    keys: tuple[bytes, ...] = ()

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Let a request pass.

        A web page may have a browser on this machine send requests: one under a foreign name (its own, pointed here) or
        from a foreign origin is not answered.

        Raises:
            Refusal: 401, no key or a wrong one; 403, a name or an origin that is not this server's.
        """
        if self.keys:
            given = headers.get(b"authorization", b"")
            key = given[len(_BEARER) :] if given[: len(_BEARER)].lower() == _BEARER else b""
            if not any(hmac.compare_digest(key, known) for known in self.keys):
                raise Refusal(401, "no_key", "a key is needed: Authorization: Bearer KEY", _CHALLENGE)
        elif not _is_own_name(headers.get(b"host", b"localhost")):
            raise Refusal(403, "foreign", "this server answers to the names of its own machine alone")
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2] != headers.get(b"host"):
            raise Refusal(403, "foreign", "this server does not answer pages of other origins")


_CHALLENGE = ((b"www-authenticate", b"Bearer"),)


def read_keys(file: Path) -> tuple[bytes, ...]:
    """The keys in a file, one a line.

    Raises:
        UserError: it cannot be read, holds none, or one that is too short to be safe.
    """
    try:
        keys = tuple(filter(None, map(bytes.strip, file.read_bytes().splitlines())))
    except OSError as error:
        raise UserError(f"the key file {file} cannot be read: {error.strerror}") from error
    if not keys or min(map(len, keys)) < _LEAST_LENGTH:
        raise UserError(
            f"{file} must hold a key of at least {_LEAST_LENGTH} characters on each line: "
            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    return keys


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, for itself alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(64)
def _is_own_name(header: bytes) -> bool:
    """Whether a ``Host`` (``localhost:8000``, ``[::1]:8000``) names this machine for itself."""
    text = header.decode("latin-1").lower()
    return is_loopback(text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0])
