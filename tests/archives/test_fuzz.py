"""A short run of the fuzzer of archives; ``python -m tests.archives.fuzz`` is the long one."""

from __future__ import annotations

from collections import Counter

from tests.archives.fuzz import NEVER, RAN_ACCEPTED, RAN_ALONE, fuzz, unguarded


def test_no_code_runs_that_the_guard_accepted() -> None:
    counts = Counter(name for _, found in fuzz(250, seed=1) for name in found)
    assert counts[RAN_ALONE] > 20
    assert [name for name in NEVER if counts[name]] == []


def test_without_the_guard_the_fuzzer_finds_code_that_runs() -> None:
    """The twin."""
    counts = Counter(name for _, found in fuzz(60, seed=1, guard=unguarded) for name in found)
    assert counts[RAN_ACCEPTED] > 3
