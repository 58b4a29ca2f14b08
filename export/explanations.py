"""What common texts of PyTorch's exporters and of ONNX Runtime mean in the user's terms, and what to write instead.

``explain`` finds in an error's text the first cause of the table that fits, and the line of the user's code that the
text leads to. The text itself stays in the log: what is said here is one sentence.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from pathlib import Path

from export.refusals import CAUSES

_FRAME = re.compile(
    r'^ *File "(?P<path>[^"<>]+)", line (?P<number>\d+).*\n(?P<code>(?:(?! *File ").*\n?){0,6})', re.MULTILINE
)
"""As Python's tracebacks and TorchScript's compiler print it, with the lines below that belong to it."""
_POINTED = re.compile(r"^(?P<code>.*)\n[ ~]*~[ ~]*<--- HERE", re.MULTILINE)
"""TorchScript prints lines around the one that it means."""
_ROOT = Path(__file__).resolve().parents[1]
_LIBRARIES = re.compile(r"/site-packages/|/dist-packages/|/lib/python3[.\d]*/|^torch/|^_export/")
_MACHINERY = re.compile(
    r"(^|/)(torch|onnx|onnxscript|onnxruntime|onnx_ir|numpy)/|/lib/python3[.\d]*/(?!site-packages|dist-packages)"
)
"""Libraries in which no model lies."""
_LONGEST_CODE = 80


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A refusal in the user's terms."""

    means: str
    instead: str
    line: str | None
    """``net.py:12: if x.sum() > 0:``, the innermost line of the user's code; None where the text leads to none."""

    @property
    def sentence(self) -> str:
        """What it means, where, and what to write instead."""
        return f"{self.means}{f' ({self.line})' if self.line else ''}: {self.instead}"


def explain(text: str) -> Explanation | None:
    """The explanation of an error's text, best with its traceback; None if no cause of the table fits."""
    for cause in CAUSES:
        if match := re.search(cause.pattern, text):
            means, instead = match.expand(cause.means), match.expand(cause.instead)
            return Explanation(means=means, instead=instead, line=users_line(text))
    return None


def in_words(error: BaseException) -> str:
    """An error's explanation as one sentence; without one its type and the first line of what it says."""
    explanation = explain("".join(traceback.format_exception(error)))
    if explanation is not None:
        return explanation.sentence
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def in_users_words(error: BaseException) -> str:
    """An error of the user's own code: its type, what it says, and the line of theirs that raised it."""
    line = users_line("".join(traceback.format_exception(error)))
    return f"{type(error).__name__}: {error}{f' ({line})' if line else ''}"


def users_line(text: str) -> str | None:
    """The innermost line of the user's own code among the frames that a text names, else of a library of models.

    What caused an error stands before it, and says more than where it was caught: the first part that has such a line.
    """
    parts = [[frame for frame in _FRAME.finditer(part) if not _is_part_of_us(frame["path"])] for part in _parts(text)]
    own = next(
        filter(None, ([frame for frame in part if not _LIBRARIES.search(frame["path"])] for part in parts)), None
    )
    models = ([frame for frame in part if not _MACHINERY.search(frame["path"])] for part in parts)
    frames = own or next(filter(None, models), None)
    if frames is None:
        return None
    frame = frames[-1]
    pointed = _POINTED.search(frame["code"])
    code = (pointed["code"] if pointed else frame["code"].partition("\n")[0]).strip()
    name = re.split(r"(?:site|dist)-packages/", frame["path"])[-1] if not own else Path(frame["path"]).name
    return f"{name}:{frame['number']}" + (f": {code[:_LONGEST_CODE]}" if code else "")


def _parts(text: str) -> list[str]:
    """The tracebacks of a text, causes first."""
    return re.split(r"\n(?:The above exception was|During handling of)[^\n]*\n", text)


def _is_part_of_us(path: str) -> bool:
    """Whether a file is part of Torchstone; built-in recipes are models as any user's."""
    if not Path(path).is_relative_to(_ROOT):
        return False
    inside = Path(path).relative_to(_ROOT).parts
    return inside[0] in {"export", "bench", "pipeline"} and inside[1:2] != ("recipes",)
