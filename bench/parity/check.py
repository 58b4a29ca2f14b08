"""One result of the parity check: what was looked at, and what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CheckStatus = Literal["pass", "fail", "inconclusive", "unchecked", "reported"]
"""``unchecked``: could not be looked at, with the reason; ``reported``: a property that no artifact fails for."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding about one artifact: a sentence for people, and what of it machines go on from."""

    level: str
    """The name of one of ``bench.parity.levels.LEVELS``."""
    subject: str
    """An output's name, or what was tried."""
    status: CheckStatus
    message: str
    """What was found, with the figures."""
    cases: tuple[str, ...] = ()
    """Names of the cases in which it was found, the worst first; empty where it is not a matter of cases."""
    places: tuple[str, ...] = ()
    """All weights, or nodes and modules of the traced program, that differ; empty where there are none."""
    value: float | None = None
    """The figure that was judged, in the level's unit; None where there is none."""
    limit: float | None = None
    """What the figure was held to."""
