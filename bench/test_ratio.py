"""The gate on speed: no artifact lost ground to eager since the committed baseline, or the base commit (bench/gate.py).

Takes a minute or more. Where noise could hide a loss that matters it skips, with the figure.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.baseline import committed
from bench.gate import against_commit, against_committed, base_revision
from export.errors import UserError


def test_no_artifact_lost_ground_to_eager(run_folder: Path) -> None:
    baseline, why_not = committed(run_folder)
    if baseline is not None:
        lost = against_committed(run_folder, baseline)
    else:
        revision = base_revision()
        if revision is None:
            pytest.skip(f"{why_not}; and there is no base commit to measure: set TORCHSTONE_BASE")
        try:
            lost = against_commit(run_folder, revision)
        except UserError as error:
            pytest.skip(f"{why_not}; {error}")
    regressed = [regression.message for regression in lost if regression.regressed]
    assert not regressed, "\n".join(regressed)
    noisy = [regression.message for regression in lost if regression.too_noisy]
    if noisy:
        pytest.skip("too noisy to judge here and now: " + "; ".join(noisy))
