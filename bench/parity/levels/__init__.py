"""The levels of the parity check, in the order of tables; one file each, save those that differ in their inputs alone.

Another level is one more file with a subclass of ``Level``, and one line here.
"""

from __future__ import annotations

from bench.parity.levels.attributes import Attributes
from bench.parity.levels.decisions import Decisions
from bench.parity.levels.determinism import Determinism
from bench.parity.levels.error import Error
from bench.parity.levels.execution import Execution
from bench.parity.levels.fidelity import Fidelity
from bench.parity.levels.invariance import Invariance
from bench.parity.levels.layouts import Layouts
from bench.parity.levels.level import Level
from bench.parity.levels.metric import Metric
from bench.parity.levels.nonfinite import NonFinite
from bench.parity.levels.other_inputs import Calls, Extremes, OtherValues, Sizes
from bench.parity.levels.refusals import Refusals
from bench.parity.levels.structure import Structure
from bench.parity.levels.systematic import Systematic
from bench.parity.levels.weights import Weights

LEVELS: tuple[type[Level], ...] = (
    Structure,
    Weights,
    Attributes,
    Error,
    Systematic,
    Fidelity,
    Decisions,
    Metric,
    Calls,
    OtherValues,
    Sizes,
    Extremes,
    NonFinite,
    Layouts,
    Refusals,
    Invariance,
    Determinism,
    Execution,
)
