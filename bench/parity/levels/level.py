"""What a level of the parity check is: a property that an artifact must have, judged by what it answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from bench.parity.answers import Answers
from bench.parity.cases import Case, Group, Tensors
from bench.parity.check import Check
from bench.parity.contents.opened import Opened
from bench.parity.contents.probe import Call
from bench.parity.spec import ParitySpec, Thresholds
from export.artifact import Artifact
from export.backend import Backend, Runner, Witness

if TYPE_CHECKING:
    from bench.parity.levels.error import ErrorTally

_REFUSALS_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Inside:
    """What a level sees in the process that holds the artifact: the loaded artifact, its files, a call to make."""

    runner: Runner
    opened: Opened
    """The artifact's files, verified, and the traced program."""
    inputs: Tensors | None
    """Those of an ordinary call; None if the artifact does not answer that."""
    weights: Path | None
    """The checkpoint's, as safetensors."""
    calls: Callable[[], Sequence[Call]]
    """A few calls with real rows and what came out; none if any case was refused."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a level sees when it judges: what the artifact is held to, and what was found besides its answers."""

    artifact: Artifact
    backend: Backend
    outputs: tuple[str, ...]
    spec: ParitySpec
    limits: Thresholds
    cases: tuple[Case, ...]
    own_rows: bool
    """Whether each row's answer is its own; else the rows of a call look at each other."""
    has_reference: bool
    """Whether the model has a float64 answer."""
    operators: tuple[str, ...]
    """The kinds of operator in the traced program."""
    errors: Mapping[str, ErrorTally]
    """The error of every output in units of eager's own, which several levels read."""
    witness: Witness
    refusals: Mapping[int, str]
    """By number of the case: why the artifact did not answer it."""
    observed: tuple[Check, ...]
    """What levels saw in the artifact's process, in fresh ones, and in the recipe's metrics."""

    def refused(self, level: str, group: Group) -> Iterator[Check]:
        """Cases of a group that the model answers and the artifact does not, the first few by name."""
        refused = [(self.cases[index], why) for index, why in self.refusals.items() if self.cases[index].group == group]
        for case, why in refused[:_REFUSALS_SHOWN]:
            message = f"refused {case.name}: {why}"
            yield Check(level=level, subject=case.name, status="fail", message=message, cases=(case.name,))
        if more := refused[_REFUSALS_SHOWN:]:
            message = f"refused {len(more)} more of the cases in {group}"
            names = tuple(case.name for case, _ in more)
            yield Check(level=level, subject=group, status="fail", message=message, cases=names)


class Level:
    """One level, for one artifact: it looks inside, is given every answer, and then says what it found."""

    name: ClassVar[str]
    meaning: ClassVar[str]
    """What it holds an artifact to, in a line for tables."""
    exact: ClassVar[bool] = False
    """Whether only an artifact that computes the same function can meet it; of int8 it is then reported alone."""
    takes_malformed: ClassVar[bool] = False
    """Whether ``add`` also gets answers of another shape or dtype."""

    def observe(self, inside: Inside) -> Iterable[Check]:
        """What can be seen only in the process that holds the artifact."""
        return ()

    def add(self, answers: Answers) -> None:
        """Take in one output's answers to one case; cases come in order."""

    def checks(self, context: Context) -> Iterable[Check]:
        """What was found, after the last answer."""
        return (check for check in context.observed if check.level == self.name)


class Tally(Protocol):
    """What is gathered about one output."""

    def add(self, answers: Answers) -> None:
        """Take in the answers to one case."""
        ...


T = TypeVar("T", bound=Tally)


class PerOutput(Level, Generic[T]):
    """A level that gathers something about every output; it judges in the order of the signature."""

    tally: ClassVar[type[Any]]
    """Made with the name of an output."""

    def __init__(self) -> None:
        self._tallies: dict[str, T] = {}

    def of(self, output: str) -> T:
        """The tally of one output."""
        if output not in self._tallies:
            self._tallies[output] = type(self).tally(output)
        return self._tallies[output]

    def add(self, answers: Answers) -> None:
        """Into the tally of its output."""
        self.of(answers.output).add(answers)
