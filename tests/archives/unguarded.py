"""Programs loaded and called by torch alone, in a process of their own.

    python -m tests.archives.unguarded FOLDER...

Each folder has a ``model.pt2``, whose code makes the folder ``ran`` beside it. Prints when that happened, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from pathlib import Path

import torch

from export.program import quiet


def when_it_runs(folder: Path) -> str | None:
    """``loaded``, ``called`` or never."""
    sys.path.insert(0, str(folder))
    program = None
    with quiet(), contextlib.suppress(Exception):  # what the code leaves is often no program
        program = torch.export.load(folder / "model.pt2")
    if (folder / "ran").exists():
        return "loaded"
    with quiet(), contextlib.suppress(Exception):
        if program is not None:
            arguments, keywords = program.example_inputs
            program.module()(*arguments, **keywords)
    return "called" if (folder / "ran").exists() else None


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    print(json.dumps({name: when_it_runs(Path(name)) for name in sys.argv[1:]}))
