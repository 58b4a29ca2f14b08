"""``verify.pyz`` of a bundle: the check's own source as one archive that Python runs.

The format is that of the standard library's ``zipapp``, which cannot write it here: it takes the order of files and
their dates from the file system, and a bundle's bytes must be the same wherever it is made.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

ARCHIVE_NAME = "verify.pyz"
_PACKAGE = Path(__file__).resolve().parents[1]
_MAIN = b"from pipeline.verifier.__main__ import start\n\nraise SystemExit(start())\n"
_DATE = (1980, 1, 1, 0, 0, 0)
"""The first that a ZIP archive can hold."""
_REGULAR_FILE = 0o100644 << 16
_UNIX = 3


def write_archive(path: Path) -> None:
    """The same bytes every time, uncompressed: what compression gives depends on the version of zlib."""
    sources = [_PACKAGE / "__init__.py", *sorted((_PACKAGE / "verifier").glob("*.py"))]
    members = {source.relative_to(_PACKAGE.parent).as_posix(): source.read_bytes() for source in sources}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {"__main__.py": _MAIN, **members}.items():
            member = zipfile.ZipInfo(name, _DATE)
            member.external_attr, member.create_system = _REGULAR_FILE, _UNIX
            archive.writestr(member, content)
