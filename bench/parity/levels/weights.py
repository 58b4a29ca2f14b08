"""Weights: every weight in the artifact equals the checkpoint's, however the exporter stored it."""

from __future__ import annotations

from collections.abc import Iterable

from bench.parity.check import Check
from bench.parity.contents.weights import weights_check
from bench.parity.levels.level import Inside, Level


class Weights(Level):
    """What the files hold; what they do not show is read from the answers."""

    name = "weights"
    meaning = "every weight in the artifact equals the checkpoint's"
    exact = True

    def observe(self, inside: Inside) -> Iterable[Check]:
        """None where the checkpoint is not at hand."""
        if inside.weights is None:
            return
        try:
            yield weights_check(inside.opened, inside.weights, inside.calls())
        except Exception as error:  # noqa: BLE001 - operators of a package that is not here, programs that do not widen
            message = f"could not be looked at: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            yield Check(level=self.name, subject="files", status="unchecked", message=message)
