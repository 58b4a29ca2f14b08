"""What a training tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What training tells while it runs."""

    say: Callable[[str], None]
    """One line of text."""
    advance: Callable[[float, int, str], None]
    """Epochs done, parts of one too, and of how many; what to say of them in a few words."""
    note: Callable[[Mapping[str, float]], None] = lambda figures: None
    """A line of ``metrics.jsonl``, for a loop of the user's own: figures by name."""
