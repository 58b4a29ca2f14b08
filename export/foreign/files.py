"""The files that other tools made, as a user names them: by the names of their rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from export import registry
from export.errors import UserError
from export.files import digest_file, is_folder_name


def check(files: Mapping[str, Path]) -> None:
    """Refuse names and files that cannot be rows, before anything is done.

    Raises:
        UserError: a name that a backend has or that no folder can have, or a file that is not there.
    """
    for name, file in files.items():
        if not is_folder_name(name):
            raise UserError(f"an artifact's name must be letters, digits, '-', '_' and '.', got {name!r}")
        if any(name == known or name.startswith(f"{known}-") for known in registry.names()):
            raise UserError(f"the artifact {name!r} must not be called as a backend is: call it by another name")
        if not file.is_file():
            raise UserError(f"the artifact {name!r} must be a file, there is none at {file}")


def sha256(files: Mapping[str, Path]) -> dict[str, str]:
    """The digest of every file, and of those beside it that belong to it, by ``<row>: <file>``.

    Raises:
        UserError: one that no backend takes, that is damaged, or that lacks a part.
    """
    return {
        f"{name}: {part.name}": digest_file(part)
        for name, file in files.items()
        for part in registry.of_foreign(file)[1].files(file)
    }


def row_name(file: str | Path) -> str:
    """What the row of a file is called that the user gave no name: as the file without its end."""
    return re.sub(r"[^\w.-]", "-", Path(file).stem).lstrip(".-") or "file"
