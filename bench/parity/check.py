"""One result of the parity check: what was looked at, and what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CheckStatus = Literal["pass", "fail", "inconclusive", "unchecked", "reported"]
"""``unchecked``: could not be looked at, with the reason; ``reported``: a property that no artifact fails for."""

LEVELS: dict[str, str] = {
    "structure": "every call is answered, with the right names, shapes and dtypes; NaN and Inf where float64 has them",
    "weights": "every weight in the artifact equals the checkpoint's",
    "attributes": "settings of operators (epsilon, axis, padding) equal the traced program's",
    "error": "error against float64, in units of eager's own",
    "systematic": "no error that grows with the output",
    "fidelity": "of int8: signal over quantisation noise",
    "decisions": "the same class, the same side of the threshold",
    "metric": "the recipe's metrics, paired, on real labelled rows",
    "calls": "two calls in a row, and the first again",
    "values": "other values in the same shapes",
    "sizes": "every dynamic dimension at its ends and at odd sizes",
    "extremes": "zeros, denormals, huge values, ties",
    "non-finite": "NaN and Inf in the inputs",
    "layouts": "transposed, strided and expanded inputs",
    "refusals": "wrong dtypes, ranks and sizes are refused, never misread",
    "invariance": "the same rows in another batch",
    "determinism": "the same call again",
    "execution": "everything ran where and as it was asked to",
}
"""Name to meaning, in the order of tables."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding about one artifact."""

    level: str
    """One of ``LEVELS``."""
    subject: str
    """An output's name, or what was tried."""
    status: CheckStatus
    message: str
    """What was found, with the figures."""
