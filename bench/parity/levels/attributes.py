"""Attributes: settings of operators (epsilon, axis, padding) equal the traced program's."""

from __future__ import annotations

from collections.abc import Iterable

from bench.parity.check import Check
from bench.parity.contents.settings import settings_check
from bench.parity.levels.level import Inside, Level


class Attributes(Level):
    """What the files say of their operators."""

    name = "attributes"
    meaning = "settings of operators (epsilon, axis, padding) equal the traced program's"
    exact = True

    def observe(self, inside: Inside) -> Iterable[Check]:
        """None where the checkpoint is not at hand, since the artifact is then not compared with a model."""
        if inside.weights is not None:
            yield settings_check(inside.opened)
