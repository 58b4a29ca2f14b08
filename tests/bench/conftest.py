"""Provers of small models, shared by the tests of one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.parity.spec import ParitySpec
from tests.models import SIGNATURES, source
from tests.prover import Prover

SPEC = ParitySpec(call_limit_s=60.0)  # on a busy machine large sizes would be left out
Provers = Callable[[str], Prover]


@pytest.fixture(scope="module")
def provers(tmp_path_factory: pytest.TempPathFactory) -> Provers:
    """``provers(model)``: what judges the artifacts of a model of tests/models.py, made once."""
    base = tmp_path_factory.mktemp("provers")
    known: dict[str, Prover] = {}

    def prover(model: str) -> Prover:
        if model not in known:
            known[model] = Prover(source(model), SIGNATURES[model], base / model, SPEC)
        return known[model]

    return prover


def right(prover: Prover, backend: str) -> Path:
    """The folder of an artifact with nothing wrong, built once."""
    folder = prover.folder / backend
    return folder if folder.exists() else prover.build(backend, folder)
