"""Execution: everything ran where and as it was asked to, by the runtime's own evidence."""

from __future__ import annotations

from collections.abc import Iterable

from bench.parity.check import Check
from bench.parity.levels.level import Context, Level


class Execution(Level):
    """The witness's findings."""

    name = "execution"
    meaning = "everything ran where and as it was asked to"

    def checks(self, context: Context) -> Iterable[Check]:
        """Fails for whatever fell back."""
        witness = context.witness
        evidence = ", ".join(f"{name} {value}" for name, value in witness.evidence.items()) or f"on {witness.device}"
        yield Check(
            level=self.name,
            subject=witness.device,
            status="fail" if witness.fallback else "pass",
            message=witness.fallback or evidence,
        )
