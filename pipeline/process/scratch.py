"""Temporary files, those of the user's code and of every child too, lie in a folder of ours and go with the work.

What a kill left there, the next to work in the same place sweeps away.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.verifier.private import private_folder

_UNFIT = re.compile(r"[^\w./+@%=,-]")
"""Compilers are called by command lines that do not quote the names of files."""
_LENGTH = 70
"""Sockets have names of at most 108 bytes, of which multiprocessing appends 33."""


@contextmanager
def temporary_files(place: Path) -> Iterator[None]:
    """``tempfile`` takes ``place``, in this process and in those that it starts; empty at first, and gone at the end.

    A place that programs could not name is replaced by a private folder among the system's temporary files.
    """
    before = {"TMPDIR": os.environ.get("TMPDIR")}
    with ExitStack() as stack:
        if _UNFIT.search(str(place)) or len(str(place)) > _LENGTH:
            place = stack.enter_context(private_folder("torchstone-run-"))
        else:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            stack.callback(shutil.rmtree, place, ignore_errors=True)
        tempdir, tempfile.tempdir = tempfile.tempdir, str(place)
        os.environ["TMPDIR"] = str(place)
        try:
            yield
        finally:
            tempfile.tempdir = tempdir
            os.environ.pop("TMPDIR")
            os.environ.update({name: value for name, value in before.items() if value is not None})
