"""What an artifact of a narrower precision holds and why that may not be faster, as evidence beside its answers."""

from __future__ import annotations

from bench.parity.contents.opened import Opened
from bench.parity.levels.fidelity import rounds_by_intent
from export.device import device
from export.exporters.narrowing import KEPT, histogram, stored_as
from export.foreign.narrowed import half_of
from export.runtimes.precision import unaided


def storage(opened: Opened) -> dict[str, str]:
    """Elements of the files' own weights by dtype, what stays in float32, what the processor lacks; none of others."""
    artifact = opened.artifact
    if not rounds_by_intent(artifact.precision):
        return {}
    evidence = {}
    if opened.contents is not None and (kinds := stored_as(opened.contents)):
        evidence["weights"] = histogram(kinds)
    if KEPT in artifact.facts:
        evidence[KEPT] = artifact.facts[KEPT]
    kind = half_of(artifact.precision) or artifact.precision
    if not device(artifact.device).asynchronous and (why := unaided(kind)) is not None:
        evidence["why_slow"] = why
    return evidence
