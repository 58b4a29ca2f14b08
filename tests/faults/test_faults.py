"""Every kind of fault, once: the right level fails, the locator names the right module."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.kinds import Kind
from tests.faults.legitimate import SEEDS, judge, variants
from tests.faults.planted import KINDS, ModelRuns, caught, is_right, judged, located, plant


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> ModelRuns:
    return ModelRuns(tmp_path_factory.mktemp("faults"))


def test_there_are_at_least_forty_kinds_on_at_least_six_models() -> None:
    assert len({kind.name for kind in KINDS}) >= 40
    assert len({model for kind in KINDS for model in kind.models}) >= 6


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.name} ({kind.models[0]})")
def test_the_fault_is_caught_by_the_right_level_and_located(kind: Kind, runs: ModelRuns) -> None:
    model = kind.models[0]
    backend = "onnx" if kind.where == "onnx" else kind.backends[0]
    planted = plant(kind, model, backend, runs)
    report = judged(runs, model, planted)
    assert caught(kind, report), report
    if planted.module is not None:
        location = located(runs, model, planted, report)
        assert is_right(location, planted.module), (planted.module, location)


@pytest.mark.parametrize("model", ["Cnn", pytest.param("Encoder", marks=pytest.mark.slow), "Pair"])
def test_right_artifacts_raise_no_alarm(model: str, tmp_path: Path) -> None:
    """Eager, TorchScript, exported and ONNX at every optimisation level, with one thread and two."""
    found = next(found for name, _, found in variants(SEEDS[:1], ()) if name == model)
    assert len(found) == 14
    for variant, report, _ in judge(tmp_path, model, SEEDS[0], found):
        assert (variant.name, report.status, report.reasons) == (variant.name, "pass", ())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_fault_in_every_model_is_caught_and_no_right_artifact_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main([]) == 0, capsys.readouterr().out
