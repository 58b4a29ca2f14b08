"""Where the code of the check lies: in the archive of a bundle, or in a package that is installed."""

from __future__ import annotations

import sys
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
"""What holds the package ``pipeline``: an archive or a folder."""
ARCHIVE = HOME if HOME.is_file() else None
"""The archive that this code was read from; None where it was not packed."""


def installation(packages: str) -> str:
    """The command that installs what could not be imported."""
    command = f"{sys.executable} -m pip install {packages}"
    return command if ARCHIVE is None else f"{command} ({ARCHIVE.name} does not look at PYTHONPATH)"
