"""NaN and Inf in the inputs: what runtimes do with them differs by design, and matters only to a model that declares
such inputs.
"""

from __future__ import annotations

from collections.abc import Iterable

from bench.parity.answers import Answers
from bench.parity.check import Check, CheckStatus
from bench.parity.levels.level import Context, PerOutput
from bench.parity.levels.structure import NON_FINITE, misplaced, unequal_elements


class NonFiniteTally:
    """Where one output goes astray when an input is NaN or Inf."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._asked = False
        self._faults: list[tuple[str, str]] = []

    def add(self, answers: Answers) -> None:
        """Add one case; only those with such inputs count."""
        if answers.case.group != NON_FINITE:
            return
        self._asked = True
        case = answers.case.name
        if answers.floating:
            self._faults += [(case, fault) for fault in misplaced(answers)]
        elif count := unequal_elements(answers):
            fault = f"{answers.output} ({case}): {count} of {answers.got.size} values differ"
            self._faults.append((case, fault))

    def checks(self, context: Context) -> Iterable[Check]:
        """Fails only where the model declares such inputs; else it is reported, with what the runtime is known for."""
        if not self._asked:
            return
        status: CheckStatus = "pass"
        message = "NaN and Inf go where float64 sends them"
        if self._faults:
            status = "fail" if context.spec.nonfinite_inputs else "reported"
            known = _known(context)
            message = "; ".join(fault for _, fault in self._faults) + (f" (known: {known})" if known else "")
        cases = tuple(dict.fromkeys(case for case, _ in self._faults))
        yield Check(level=NonFinite.name, subject=self._output, status=status, message=message, cases=cases)


class NonFinite(PerOutput[NonFiniteTally]):
    """Answers to NaN and Inf."""

    name = "non-finite"
    meaning = "NaN and Inf in the inputs"
    exact = True
    tally = NonFiniteTally

    def checks(self, context: Context) -> Iterable[Check]:
        """Cases that were refused, then where every output goes."""
        yield from context.refused(self.name, NON_FINITE)
        for output in context.outputs:
            yield from self.of(output).checks(context)


def _known(context: Context) -> str | None:
    """What the runtime is known to do with such values, by an operator of the model."""
    notes = context.backend.nonfinite_notes
    return next((note for part, note in notes if any(part in operator for operator in context.operators)), None)
