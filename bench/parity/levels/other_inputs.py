"""The levels that measure the error on other inputs than the rows: each on a group of cases of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from bench.parity.cases import Group
from bench.parity.check import Check
from bench.parity.levels.level import Context, Level


class OtherInputs(Level):
    """The error on one group of cases, in units that the rows give."""

    exact = True
    group: ClassVar[Group]

    def checks(self, context: Context) -> Iterable[Check]:
        """Cases that were refused, then the error of every output."""
        yield from context.refused(self.name, self.group)
        if context.has_reference:
            for output in context.outputs:
                yield from context.errors[output].group_checks(self.group, context.limits)


class Calls(OtherInputs):
    """A call must not change the next one."""

    name = "calls"
    meaning = "two calls in a row, and the first again"
    group = "calls"


class OtherValues(OtherInputs):
    """Ordinary values of another sign and size."""

    name = "values"
    meaning = "other values in the same shapes"
    group = "values"


class Sizes(OtherInputs):
    """What an exporter may have fixed."""

    name = "sizes"
    meaning = "every dynamic dimension at its ends and at odd sizes"
    group = "sizes"


class Extremes(OtherInputs):
    """What exporters are known to get wrong."""

    name = "extremes"
    meaning = "zeros, denormals, huge values, ties"
    group = "extremes"
