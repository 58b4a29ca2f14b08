"""The inside of programs and artifacts: every value by name, and any one computed from chosen others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

Values = np.ndarray[Any, Any]


class Taps(Protocol):
    """The inside of an artifact, its values known by the program's names."""

    names: dict[str, str]
    """By the program's name of a value: the artifact's."""

    def run(self, inputs: Mapping[str, Values]) -> dict[str, Values]:
        """Every matched value of one run of the whole."""
        ...

    def given(self, name: str) -> list[str]:
        """The nearest matched values and inputs that a value is computed from."""
        ...

    def local(self, name: str, given: Mapping[str, Values]) -> Values:
        """One value computed from ``given`` ones by the artifact's own operators."""
        ...

    def modules(self, name: str) -> list[str]:
        """Paths of the modules whose work lies between the given values and this one, as the artifact tells them."""
        ...

    def operator(self, name: str) -> str:
        """The artifact's word for what computes a value."""
        ...
