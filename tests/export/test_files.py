from __future__ import annotations

import errno
from pathlib import Path

import pytest

from export.files import full_disk_named, no_space

SAID = RuntimeError("cc1plus: fatal error: error writing to /tmp/x.s: No space left on device\ncompilation terminated.")


def test_a_full_disk_is_known_by_its_number_or_by_a_compilers_words() -> None:
    below = ValueError("the build failed")
    below.__cause__ = SAID
    for error in (OSError(errno.ENOSPC, "x"), SAID, below):
        assert no_space(error)
    for error in (OSError(errno.EACCES, "x"), RuntimeError("no space for doubt")):
        assert not no_space(error)


def test_what_a_compiler_says_of_a_full_disk_becomes_the_systems_own_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as found, full_disk_named(tmp_path):
        raise SAID
    assert found.value.errno == errno.ENOSPC
    with pytest.raises(ZeroDivisionError), full_disk_named(tmp_path):
        1 / 0  # noqa: B018
