from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.environment import cores_count
from export.exporters.inductor import prepare


def test_what_is_built_in_is_all_cores_or_what_is_asked_for_and_not_what_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that was filled with another number of threads does not hold where it is loaded."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # what it sets goes with the test
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "")
    torch.set_num_threads(1)  # as OMP_NUM_THREADS=1 does
    prepare(tmp_path)
    assert torch.get_num_threads() == cores_count()
    prepare(tmp_path, 1)
    assert torch.get_num_threads() == 1
