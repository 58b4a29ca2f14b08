"""A device whose calls return at once and finish later, each thread's by its own clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import ClassVar

from export.device import Device

DONE_S: dict[int, float] = {}
"""By thread: when what it queued is done."""


def queue(work_s: float) -> None:
    """Work of this length, which nobody waits for."""
    DONE_S[threading.get_ident()] = time.monotonic() + work_s


def until(moment_s: float) -> None:
    """Wait as a driver does, and never too short."""
    while (left_s := moment_s - time.monotonic()) > 0:
        time.sleep(left_s)


class Lagging(Device):
    """What timers must wait for."""

    kind: ClassVar[str] = "lagging"
    asynchronous: ClassVar[bool] = True

    def synchroniser(self) -> Callable[[], None]:
        return lambda: until(max(DONE_S.values(), default=0.0))

    def waiter(self) -> Callable[[], None]:
        return lambda: until(DONE_S.get(threading.get_ident(), 0.0))


class WaitsForAll(Lagging):
    """The twin: a caller waits for the others' work, too."""

    def waiter(self) -> Callable[[], None]:
        return self.synchroniser()


class WaitsForNone(Lagging):
    """The twin: nobody waits."""

    def waiter(self) -> Callable[[], None]:
        return lambda: None
