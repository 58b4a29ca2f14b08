"""Our own source by what it shapes: what an upgrade of Torchstone changes is made again."""

from __future__ import annotations

from pathlib import Path

from export.files import digest_file
from export.record import sha256

_ROOT = Path(__file__).resolve().parents[2]
TOOLS = {
    "training": (
        "pipeline/data.py", "pipeline/stages/train.py", "pipeline/training/*.py", "pipeline/training/batches/*.py",
        "pipeline/training/state/*.py", "pipeline/training/steps/*.py", "pipeline/training/watch/*.py",
    ),
    "metrics": ("pipeline/training/evaluate.py", "pipeline/training/metrics.py"),
    "export": ("export/**/*.py", "pipeline/stages/build.py", "pipeline/stages/capture.py"),
    "bench": ("bench/**/*.py", "pipeline/stages/measure.py", "pipeline/stages/parity.py"),
    "ship": (
        "pipeline/__init__.py", "pipeline/bundle/**/*.py", "pipeline/stages/bundle.py", "pipeline/verifier/*.py",
    ),
}  # fmt: skip
"""A stage's key holds the digests of the tools that it names."""
SHAPES_NOTHING = (
    "torchstone/*.py", "torchstone/commands/*.py", "pipeline/*.py", "pipeline/commands/*.py",
    "pipeline/comparison/*.py", "pipeline/live/*.py", "pipeline/process/*.py", "pipeline/recipes/*.py",
    "pipeline/report/*.py", "pipeline/report/plots/*.py",
    "pipeline/serving/*.py", "pipeline/serving/protocol/*.py",
    "pipeline/stages/__init__.py", "pipeline/stages/children.py", "pipeline/stages/judge.py",
    "pipeline/stages/refused.py", "pipeline/stages/retraced.py", "pipeline/stages/roads.py",
    "pipeline/stages/threads.py", "pipeline/stages/tools.py",
)  # fmt: skip
"""What is done anew by every command, or (recipes) is digested as the recipe's own source."""


def tools_sha256() -> dict[str, str]:
    """The digest of every tool's source, by its name."""
    return {name: _sha256(places) for name, places in TOOLS.items()}


def _sha256(places: tuple[str, ...]) -> str:
    files = [file for place in places for file in sorted(_ROOT.glob(place))]
    return sha256("".join(f"{file.relative_to(_ROOT).as_posix()} {digest_file(file)}\n" for file in files).encode())
