"""The contract of a file format that is taken in from other tools; a backend names its own as ``Backend.foreign``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from export.signature import Signature


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """What was found out about a file while it was taken in."""

    facts: dict[str, str]
    """For the artifact's record: its form, who made it, how its tensors were matched."""
    precision: str | None = None
    """What its weights are stored in; None where it is taken for the program's own."""


def float_kinds(kinds: Iterable[str]) -> str | None:
    """``float16+float32``: the floating dtypes among those of a file's weights; None where there are none."""
    return "+".join(sorted({kind for kind in kinds if kind.startswith(("float", "bfloat"))})) or None


@dataclass(frozen=True, kw_only=True)
class ForeignFormat(ABC):
    """One format of files that other tools make."""

    name: str
    """For people: ``ONNX``."""
    suffixes: tuple[str, ...]
    """How its files end, in small letters."""

    def is_format_of(self, file: Path) -> bool:
        """Whether a file is of this format, by its name, or where that says too little by its content."""
        return file.suffix.lower() in self.suffixes

    def files(self, file: Path) -> Sequence[Path]:
        """The file, then those beside it that it cannot be loaded without.

        Raises:
            UserError: it is damaged, or one of them is missing.
        """
        return [file]

    @abstractmethod
    def adopt(self, file: Path, signature: Signature, folder: Path) -> Adopted:
        """Write what a backend loads into ``folder``, with the model's names where the format has names.

        Args:
            file: The user's own; it is left as it is.
            signature: The model's, with its outputs.
            folder: The artifact's, empty.

        Raises:
            UserError: it is damaged, or another model's: names, dtypes or sizes do not fit.
        """
