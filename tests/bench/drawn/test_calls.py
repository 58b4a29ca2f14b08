"""Every call of a model is drawn as a whole by its function: in parity, in timing, and where there is no function."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from bench.parity.cases import Case, Pool, plan
from bench.parity.equivalent import thresholds
from bench.parity.golden import golden
from bench.parity.remarks import DRAWN_TOGETHER
from bench.parity.spec import ParitySpec
from bench.timing.cold import ColdJob, first_answer
from bench.timing.inputs import BUFFERS_COUNT, buffers, draws
from bench.timing.spec import BenchSpec
from export import tensor
from export.backend import LoadOptions
from export.completion import complete
from export.errors import UserError
from export.signature import Signature
from export.worker import Done, Failed, Workspace
from tests.bench.drawn.models import BAGS, WHITENED, Whitened, model, source
from tests.model_run import ModelRun

FEW = ParitySpec(rows_count=64, batch_rows=(1, 7, 32))
TIMED = BenchSpec(batch_rows=(1, 32, 4096))


@pytest.fixture(scope="module", params=["Bags", "Whitened"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelRun:
    signature = {"Bags": BAGS, "Whitened": WHITENED}[request.param]
    return ModelRun(source(request.param), signature, tmp_path_factory.mktemp(request.param) / "run", FEW)


@pytest.fixture(scope="module")
def exported(run: ModelRun) -> Path:
    return run.build("exported", run.folder / "exported")


def test_a_model_that_is_right_on_such_draws_alone_passes_and_no_call_is_left_out(
    run: ModelRun, exported: Path
) -> None:
    assert run.reference.left_out == {}
    assert DRAWN_TOGETHER in run.reference.remarks
    assert not run.reference.own_rows
    assert run.judge(exported).status == "pass"


@pytest.mark.parametrize(("name", "signature"), [("Bags", BAGS), ("Whitened", WHITENED)])
def test_its_twin_without_the_function_does_not_take_its_own_example(name: str, signature: Signature) -> None:
    plain = replace(signature, inputs=(signature.inputs[0], replace(signature.inputs[1], draw="auto")))
    with pytest.raises(UserError, match="the model does not accept its own example input"):
        complete(model(name), plain, seed=1)


class Untransposed(Whitened):
    """The factor's other triangle."""

    def forward(self, x: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
        factor = torch.linalg.cholesky(covariance, upper=True)
        return torch.tanh(torch.linalg.solve_triangular(factor, x.unsqueeze(2), upper=True).squeeze(2))


def untransposed(argument: str) -> nn.Module:
    return Untransposed().eval()


def test_a_wrong_artifact_of_such_a_model_is_refused(tmp_path: Path) -> None:
    run = ModelRun(source("Whitened"), WHITENED, tmp_path / "run", FEW)
    wrong = replace(source("Whitened"), function="tests.bench.drawn.test_calls:untransposed")
    assert run.judge(run.build("exported", tmp_path / "wrong", source=wrong)).status == "fail"


def test_values_that_belong_together_are_never_changed() -> None:
    pool = Pool(signature=WHITENED, samples={}, seed=0)
    before = pool.inputs(Case(group="rows", name="rows", sizes={"batch": 8}))
    after = pool.inputs(Case(group="values", name="negative", sizes={"batch": 8}, change="all negative"))
    assert (after["x"] <= 0).all()
    assert after["covariance"].tobytes() == before["covariance"].tobytes()
    alone = Signature(inputs=(WHITENED.inputs[1],), ranges=WHITENED.ranges)
    groups = {case.group for case in plan(Pool(signature=alone, samples={}, seed=0), FEW)}
    assert groups == {"calls", "rows", "sizes"}


def test_real_rows_go_before_a_function_and_are_repeated_as_they_are() -> None:
    real = np.stack([np.eye(4, dtype=np.float32) * (1 + row) for row in range(5)])
    pool = Pool(signature=WHITENED, samples={"covariance": real}, seed=0)
    called = pool.call(8, start=0)["covariance"]
    assert called.tobytes() == real[[0, 1, 2, 3, 4, 0, 1, 2]].tobytes()


def test_what_is_timed_is_drawn_where_the_function_is_and_read_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = buffers(BAGS, None, 32, seed=0)
    assert len({call["offsets"].tobytes() for call in here}) == BUFFERS_COUNT
    file = tmp_path / "samples.safetensors"
    save_file(draws(BAGS, {}, TIMED, seed=0), file)
    monkeypatch.setattr(tensor, "_functions", {})
    there = buffers(BAGS, str(file), 32, seed=7)
    assert [call["offsets"].tobytes() for call in there] == [call["offsets"].tobytes() for call in here]
    with pytest.raises(UserError, match=r"offsets at total=31, bags=\d+ is drawn by .*bench.batch_rows"):
        buffers(BAGS, str(file), 31, seed=0)


def test_a_process_without_the_recipe_starts_cold_on_what_was_kept(
    run: ModelRun, exported: Path, tmp_path: Path
) -> None:
    file = tmp_path / "samples.safetensors"
    save_file(draws(run.signature, {}, TIMED, seed=0), file)
    job = ColdJob(
        artifact=str(exported),
        options=LoadOptions(threads_count=1),
        source=None,
        batch_rows=(1, 32),
        began_s=0.0,
        samples=str(file),
    )
    workspace = Workspace(folder=tmp_path, hidden=("tests",))
    assert isinstance(workspace.run(first_answer, job, "cold", source_free=True), Done)
    end = workspace.run(first_answer, replace(job, samples=None), "cold", source_free=True)
    assert isinstance(end, Failed)
    assert "which this process does not have" in end.cause


def test_golden_calls_are_whole_and_there_is_one_of_every_batch_size(run: ModelRun) -> None:
    limits = thresholds(FEW, ())
    calls = list(golden(run.reference, run.reference_folder, run.signature, limits))
    batch = str(run.signature.batch)
    rows = [call.case.sizes[batch] for call in calls if call.case.group == "rows"]
    assert rows == [64, 1, 7, 32]


@pytest.mark.slow
def test_a_compiled_artifact_brings_the_calls_that_it_is_warmed_up_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import registry

    def refuse(*_: object) -> None:
        raise UserError("it is compiled under torch.compile here, where it is called while it is loaded")

    monkeypatch.setattr("export.exporters.standalone.build", refuse)
    run = ModelRun(source("Whitened"), WHITENED, tmp_path / "run", FEW)
    folder = run.build("compile", tmp_path / "compile")
    report = run.judge(folder)
    assert report.status == "pass", report.reasons
    monkeypatch.setattr(tensor, "_functions", {})
    registry.load(folder, LoadOptions(threads_count=1))
    (folder / "examples.safetensors").unlink()
    with pytest.raises(Exception, match=r"examples\.safetensors"):
        registry.load(folder, LoadOptions(threads_count=1))
