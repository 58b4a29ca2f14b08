"""What a child process can be asked to do: a function of one typed job that returns one typed result.

    @task
    def double(job: Doubling) -> Doubled: ...

    match workspace.run(double, Doubling(value=2), "double"):  # in a process of its own, see export/worker.py
        case Done(result=result): ...

Job and result travel as JSON, checked against the function's own annotations at both ends. Called plainly, a task is
the function itself, in this process.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar, get_type_hints

from export.record import from_json

J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True)
class Task(Generic[J, R]):
    """A function that another process can find by its name."""

    function: Callable[[J], R]

    def __call__(self, job: J) -> R:
        """Do it here."""
        return self.function(job)

    @property
    def name(self) -> str:
        """``package.module:function``."""
        module = self.function.__module__
        if module == "__main__" and (spec := sys.modules["__main__"].__spec__) is not None:
            module = spec.name  # started by ``python -m``
        return f"{module}:{self.function.__qualname__}"

    def from_payload(self, payload: object) -> Any:
        """Do it here, the job as JSON values: the child's side.

        Raises:
            RecordError: the payload is no job of this task.
        """
        return self(from_json(self._job, payload, f"the job of {self.name}"))

    def result(self, value: object) -> R:
        """A result as JSON values, typed again: the parent's side.

        Raises:
            RecordError: it is no result of this task.
        """
        result: R = from_json(self._hints["return"], value, f"the result of {self.name}")
        return result

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return get_type_hints(self.function)

    @property
    def _job(self) -> Any:
        return next(hint for name, hint in self._hints.items() if name != "return")


def task(function: Callable[[J], R]) -> Task[J, R]:
    """Make a module's function a task."""
    return Task(function)


def resolve(name: str) -> Any:
    """What lies behind ``package.module:name``."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
