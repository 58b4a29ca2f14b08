"""The second question: what equivalents of the model answer to the very calls on which an artifact fails.

A refusal must be deserved: an artifact is refused only for a difference beyond what float32 itself leaves undetermined
on that input. Nobody pays for it where nothing fails; and where a fault is gross, no spread of roundings explains it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from torch.export import ExportedProgram

from bench.parity.answers import Answers, Spread, apart
from bench.parity.cases import Case, Tensors
from bench.parity.levels.undetermined import RowErrors, by_row
from bench.parity.oracle import Oracle
from bench.parity.perturbed import decomposed
from bench.parity.reference import EAGER, FLOAT64, INPUTS
from bench.parity.spec import Thresholds
from bench.parity.store import load_case, save_case
from bench.parity.variants import Equivalent, endless, traced, unusual, usual
from export.artifact import verified_program
from export.build import Source
from export.errors import UserError
from export.open_layers import open_length
from export.program import load_exported
from export.signature import Signature
from export.task import task

_DRAWS, _MORE_DRAWS = 3, 32
"""Draws of noise that every case is asked about; and more, one by one, while a case still fails: of thousands of rows
there are some in which a few draws happen to agree, and a right artifact exceeds the largest of n with chance 1 / n."""
_RMS = ".rms"
"""Appended to an output's name: where the figure of each row lies beside those of each element."""


@dataclass(frozen=True, kw_only=True)
class SpreadJob:
    """Ask equivalents of the model about some cases."""

    source: Source
    signature: Signature
    program: str | None
    """The traced program's folder; None if the model could not be traced at the declared sizes: it is then traced at
    those of each case, as are recurrent layers of any length."""
    reference: str
    answers: str
    """The folder of the artifact's answers."""
    numbers: tuple[int, ...]
    """The cases to ask about, by number, the worst first."""
    cases: tuple[Case, ...]
    limits: Thresholds
    own_rows: bool
    seed: int
    device: str
    folder: str
    """Where to write what was found, a file a case."""


@dataclass(frozen=True, kw_only=True)
class SpreadResult:
    """What came of it."""

    numbers: tuple[int, ...]
    """The cases that were asked about: all, or those up to the first that the artifact really fails."""
    kinds: tuple[str, ...]
    """The kinds of equivalents that answered."""


@task
def spread(job: SpreadJob) -> SpreadResult:
    """Write each case's spread; end with the first case on which the artifact is farther off than that.

    Raises:
        UserError: no equivalent answers.
    """
    program = verified_program(Path(job.program)) if job.program else None
    oracle = Oracle(job.source.module(), job.signature, job.device, program)
    exported = load_exported(program) if program else None
    if exported is not None and open_length(exported) is not None:
        exported = None  # decomposed, it would have one length
    family = _Family(oracle, exported, job) if exported else None
    shapes: list[tuple[int, ...]] = []
    kinds: dict[str, None] = {}
    asked = []
    for number in job.numbers:
        inputs = load_case(Path(job.reference) / INPUTS, number, [spec.name for spec in job.signature.inputs])
        if exported is None and shapes != (shapes := [values.shape for values in inputs.values()]):
            family = _Family(oracle, traced(oracle, inputs), job)
        assert family is not None
        tally = _SpreadTally(job, number)
        kinds |= dict.fromkeys(tally.ask(family.usual, inputs))
        if not tally.count:
            raise UserError("no equivalent of the model answers")
        draws = 0
        while (fails := _still_fails(job, number, tally.spreads())) and draws < _MORE_DRAWS:
            draws += 1
            if not tally.ask(islice(family.more, 1), inputs):
                break
        save_case(Path(job.folder), number, _flat(tally.spreads()))
        asked.append(number)
        if fails:
            break
    return SpreadResult(numbers=tuple(asked), kinds=tuple(kinds))


def load_spread(folder: Path, number: int, output: str) -> Spread:
    """What was written about one output in one case."""
    arrays = load_case(folder, number, (output, output + _RMS))
    return Spread(peak=arrays[output], rms=arrays[output + _RMS])


class _Family:
    """The equivalents of a model by one program: those that every case is asked about, and as many more as wanted."""

    def __init__(self, oracle: Oracle, exported: ExportedProgram | None, job: SpreadJob) -> None:
        self.usual = list(usual(oracle, exported, _DRAWS, job.seed + 1000, own_rows=job.own_rows))
        self.more: Iterator[Equivalent] = iter(())
        try:
            elementary = decomposed(exported) if exported else None
        except Exception:  # noqa: BLE001 - a program that cannot be decomposed has the usual ones
            return
        self.usual += unusual(oracle, elementary, _DRAWS, job.seed + 1000)
        if elementary is not None:
            self.more = endless(oracle, elementary, job.seed + 2000)


class _SpreadTally:
    """The largest differences of any equivalent from float64, gathered one by one."""

    def __init__(self, job: SpreadJob, number: int) -> None:
        self.count = 0
        names = job.signature.output_names
        self._wide = load_case(Path(job.reference) / FLOAT64, number, names)
        self._peak: Tensors = {name: np.zeros(wide.shape) for name, wide in self._wide.items()}
        self._rms: Tensors = {name: np.zeros(len(by_row(wide))) for name, wide in self._wide.items()}

    def add(self, answered: Tensors) -> None:
        """Add one equivalent's answers; an output of another shape says that nothing of it is determined."""
        self.count += 1
        for name, wide in self._wide.items():
            got = answered[name]
            if got.shape != wide.shape:
                self._peak[name] = np.full(wide.shape, np.inf)
                continue
            distance = apart(got, wide)
            self._peak[name] = np.maximum(self._peak[name], distance)
            finite = np.isfinite(distance)
            squares = by_row(np.square(np.where(finite, distance, 0.0))).sum(-1)
            counts = np.maximum(by_row(finite).sum(-1), 1)
            self._rms[name] = np.maximum(self._rms[name], np.sqrt(squares / counts))

    def ask(self, equivalents: Iterable[Equivalent], inputs: Tensors) -> list[str]:
        """Add what each of them answers; the kinds of those that do."""
        kinds = []
        for equivalent in equivalents:
            try:
                answered = equivalent.answer(inputs)
            except Exception:  # noqa: BLE001, S112 - noise under vmap, batches that the model refuses
                continue
            self.add(answered)
            kinds.append(equivalent.kind)
        return kinds

    def spreads(self) -> dict[str, Spread]:
        """By output."""
        return {name: Spread(peak=peak, rms=self._rms[name]) for name, peak in self._peak.items()}


def _flat(spreads: dict[str, Spread]) -> Tensors:
    return {
        key: values
        for name, spread_of in spreads.items()
        for key, values in ((name, spread_of.peak), (name + _RMS, spread_of.rms))
    }


def _still_fails(job: SpreadJob, number: int, spreads: dict[str, Spread]) -> bool:
    """Whether the artifact is farther from float64 than equivalents of the model explain."""
    names = job.signature.output_names
    wide, eager, got = (
        load_case(folder, number, names)
        for folder in (Path(job.reference) / FLOAT64, Path(job.reference) / EAGER, Path(job.answers))
    )
    return any(
        bool(RowErrors.of(answers).faults(job.limits))
        for answers in _answers(job.cases[number], names, wide, eager, got, spreads)
        if answers.floating and answers.malformed is None
    )


def _answers(
    case: Case, names: Sequence[str], wide: Tensors, eager: Tensors, got: Tensors, spreads: dict[str, Spread]
) -> Iterator[Answers]:
    for name in names:
        yield Answers(output=name, case=case, wide=wide[name], eager=eager[name], got=got[name], spread=spreads[name])
