"""ModelRuns of small models, shared by the tests of one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.parity.spec import ParitySpec
from tests.model_run import ModelRun
from tests.models import SIGNATURES, source

SPEC = ParitySpec(call_limit_s=60.0)  # on a busy machine large sizes would be left out
ModelRuns = Callable[[str], ModelRun]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> ModelRuns:
    """``runs(model)``: what judges the artifacts of a model of tests/models.py, made once."""
    base = tmp_path_factory.mktemp("runs")
    known: dict[str, ModelRun] = {}

    def run(model: str) -> ModelRun:
        if model not in known:
            known[model] = ModelRun(source(model), SIGNATURES[model], base / model, SPEC)
        return known[model]

    return run


def right(run: ModelRun, backend: str) -> Path:
    """The folder of an artifact with nothing wrong, built once."""
    folder = run.folder / backend
    return folder if folder.exists() else run.build(backend, folder)
