"""A road is kept only if what it built answers as the model does; with the trial switched off a wrong one is kept."""

from __future__ import annotations

import errno
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export import registry
from export.arrays import Array, to_numpy
from export.artifact import open_artifact
from export.backend import LoadOptions
from export.capture_failure import explain
from export.completion import complete
from export.errors import UserError
from export.flat import FlatModule
from export.program import capture, quiet
from export.roads import AnswersOtherwiseError, NoRoadError, Refusal, Road, detour, first_that_works
from export.signature import SizeRange
from export.trial import Trial
from tests.conftest import Builder
from tests.models import SIGNATURES, make
from tests.torches import since

OPTIONS = LoadOptions(threads_count=2)


def worst(folder: Path, model: str, sizes: dict[str, int], seeds: range = range(6)) -> float:
    """The largest difference between an artifact and the module."""
    artifact = open_artifact(folder)
    runner = registry.load(folder, OPTIONS, lambda: make(model))
    flat = FlatModule(make(model), artifact.signature)
    differences = [0.0]
    for seed in seeds:
        inputs: Any = artifact.signature.example(sizes, seed)
        with torch.no_grad():
            answers = flat(*[torch.from_numpy(array) for array in inputs.values()])
        for output, answer in zip(runner(inputs).values(), answers, strict=True):
            assert tuple(output.shape) == tuple(answer.shape)
            differences.append(float(np.abs(to_numpy(output) - answer.numpy()).max()))
    return max(differences)


def fail(message: str) -> Any:
    raise RuntimeError(message)


def test_the_first_road_that_works_is_kept_with_what_the_others_said() -> None:
    def trial(built: int) -> None:
        if built == 2:
            raise AnswersOtherwiseError("answers otherwise than the model")

    roads = (
        Road("first", lambda: fail("cannot:\nsecond line")),
        Road("second", lambda: 2),
        Road("third", lambda: 3),
        Road("fourth", lambda: fail("never asked")),
    )
    kept = first_that_works(roads, trial)
    assert (kept.road, kept.built) == ("third", 3)
    assert kept.facts == {
        "road": "third",
        "not_by_first": "RuntimeError: cannot",
        "not_by_second": "answers otherwise than the model",
    }
    assert detour(kept.facts) == (
        "by third, not by first (RuntimeError: cannot), not by second (answers otherwise than the model)"
    )
    assert first_that_works(roads, lambda _: None).road == "second"  # the twin: no trial, and the wrong one is kept


def test_the_first_road_is_no_detour() -> None:
    kept = first_that_works([Road("first", lambda: 1)], lambda _: None)
    assert detour(kept.facts) is None
    assert detour({"form": "of a backend without roads"}) is None


def test_no_road_says_what_each_of_them_said() -> None:
    with pytest.raises(NoRoadError, match="not by a: RuntimeError: one reason; not by b: RuntimeError: another"):
        first_that_works([Road("a", lambda: fail("one reason")), Road("b", lambda: fail("another"))], lambda _: None)


def test_where_none_answers_as_the_model_the_one_that_holds_its_control_flow_is_left_to_parity() -> None:
    """Ties, say, that another runtime breaks otherwise: the trial does not know that any order is right."""

    def trial(_: str) -> None:
        raise AnswersOtherwiseError("answers otherwise")

    script, trace = Road("script", lambda: "s", trust="fallback"), Road("trace", lambda: "t")
    kept = first_that_works((trace, script), trial)
    assert (kept.road, [refusal.road for refusal in kept.refusals]) == ("script", ["trace", "script"])
    with pytest.raises(NoRoadError):
        first_that_works((trace, replace(script, trust="none")), trial)
    with pytest.raises(NoRoadError):
        first_that_works((trace, script), lambda _: fail("it raises when called"))


def test_a_full_disk_is_no_reason_to_try_the_next_road() -> None:
    def full() -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        first_that_works([Road("first", full), Road("second", lambda: 2)], lambda _: None)


def trial_of(model: str) -> tuple[Trial, FlatModule]:
    signature = complete(make(model), SIGNATURES[model], seed=0)
    flat = FlatModule(make(model), signature).eval()
    return Trial(flat, signature, seed=0), flat


def test_the_trial_sees_a_branch_that_was_fixed_and_a_size() -> None:
    trial, flat = trial_of("Branch")
    trial.check(lambda tensors: flat(*tensors))
    with quiet():
        traced = torch.jit.trace(flat, (torch.ones(3, 4),), check_trace=False)
    with pytest.raises(AnswersOtherwiseError, match=r"of output's values with batch=\d+ and seed \d+"):
        trial.check(lambda tensors: traced(*tensors))

    def example_only(tensors: Any) -> list[Array]:
        return [output.expand(3, 3) if len(output) == 1 else output[:3] for output in flat(*tensors)]

    with pytest.raises(RuntimeError, match=r"output has shape \[3, 3\] with batch=1, the model's \[1, 3\]"):
        trial.check(example_only)


def test_the_trial_sees_another_dtype_and_what_raises() -> None:
    trial, flat = trial_of("Mlp")
    with pytest.raises(RuntimeError, match="y is float64 of rank 2, the model's is float32 of rank 2"):
        trial.check(lambda tensors: [output.double() for output in flat(*tensors)])
    with pytest.raises(RuntimeError, match="called with batch=3 it raises RuntimeError: no answer"):
        trial.check(lambda _: fail("no answer"))


def test_the_trial_leaves_rounding_and_random_models_to_parity() -> None:
    trial, flat = trial_of("Mlp")
    trial.check(lambda tensors: [output * (1 + 1e-5) for output in flat(*tensors)])
    trial, flat = trial_of("AlwaysDrops")
    trial.check(lambda tensors: flat(*tensors))
    with pytest.raises(RuntimeError, match="is float64"):
        trial.check(lambda tensors: [output.double() for output in flat(*tensors)])


def test_a_script_that_compiles_and_raises_when_called_is_not_kept(build_model: Builder) -> None:
    folder, artifact = build_model("ScriptRaises", "torchscript")
    assert artifact.facts["form"] == "trace"
    assert "it raises" in artifact.facts["not_by_script"]
    assert "no answer from a script" in artifact.facts["not_by_script"]
    assert worst(folder, "ScriptRaises", {"batch": 5}) < 1e-5


def test_a_random_model_is_scripted_as_any_other(build_model: Builder) -> None:
    _, artifact = build_model("AlwaysDrops", "torchscript")
    assert artifact.facts == {"form": "script", "road": "script"}


@pytest.mark.parametrize("model", ["Branch", "Steps"])
@pytest.mark.parametrize("backend", ["torchscript", "onnx"])
def test_branches_and_loops_in_plain_python_are_carried_by_the_script(
    model: str, backend: str, build_model: Builder
) -> None:
    folder, artifact = build_model(model, backend)
    assert artifact.facts["road"] == "script"
    for batch in (1, 2, 16):
        assert worst(folder, model, {"batch": batch}, range(10, 20)) < 1e-5
    if backend == "onnx":
        assert artifact.facts["not_by_program"].startswith("the model cannot be traced by torch.export")


def test_the_older_exporters_trace_gives_way_to_its_script(build_model: Builder) -> None:
    folder, artifact = build_model("Branch", "onnx-legacy")
    assert artifact.facts["road"] == "script"
    assert artifact.facts["not_by_trace"].startswith("answers otherwise than the model")
    assert worst(folder, "Branch", {"batch": 4}, range(10, 20)) < 1e-5


def test_without_the_trial_the_branch_of_the_example_is_kept(
    build_model: Builder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The twin of the two tests above."""
    from tests.conftest import _build

    monkeypatch.setattr(Trial, "check", lambda self, answer: None)
    folder, artifact = _build(tmp_path, "Branch", "onnx-legacy")
    assert artifact.facts["road"] == "trace"
    assert worst(folder, "Branch", {"batch": 4}, range(10, 20)) > 0.1


def test_an_lstm_over_a_dynamic_time_becomes_an_onnx_file_with_the_signatures_names(build_model: Builder) -> None:
    import onnx

    folder, artifact = build_model("Recurrent", "onnx")
    assert artifact.facts["road"] == "program"
    for sizes in ({"batch": 1, "time": 2}, {"batch": 5, "time": 3}, {"batch": 16, "time": 40}):
        assert worst(folder, "Recurrent", sizes) < 1e-5
    graph = onnx.load(folder / "model.onnx").graph
    assert [node.op_type for node in graph.node].count("LSTM") == 2  # and no loop
    assert [value.name for value in [*graph.input, *graph.output]] == ["x", "keep", "output"]
    shapes = [
        [dim.dim_param or dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in [*graph.input, *graph.output]
    ]
    assert shapes == [["batch", "time", 6], ["batch", "time"], ["batch", "time", 16]]


def test_a_refusal_is_one_line_of_what_caused_it() -> None:
    error = RuntimeError("outer")
    error.__cause__ = ValueError("inner:\nmore")
    assert Refusal("a", error).reason == "ValueError: inner"


@since("2.13", "fixes sizes that are halved")
def test_sizes_that_torch_cannot_prove_stay_dynamic(build_model: Builder) -> None:
    folder, artifact = build_model("Halved", "exported")
    assert artifact.facts["program_road"].startswith("torch.export with deferred checks")
    assert "does not hold for every declared size of height, width" in artifact.facts["program_not_by_torch.export"]
    for sizes in ({"height": 5, "width": 64}, {"height": 8, "width": 7}, {"height": 33, "width": 18}):
        assert worst(folder, "Halved", {"batch": 2} | sizes) < 1e-5


def test_a_size_that_no_program_takes_is_named() -> None:
    ranges = SIGNATURES["Halved"].ranges | {"height": SizeRange(min=4, max=64)}
    signature = complete(make("Halved"), replace(SIGNATURES["Halved"], ranges=ranges), seed=0)
    with pytest.raises(UserError, match=r"no program for all declared sizes: .* does not take batch=\d, height=4,"):
        capture(make("Halved"), signature, seed=0)


def test_without_the_sweep_a_program_is_kept_that_raises_at_a_declared_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: neither the sweep nor the trial."""
    ranges = SIGNATURES["Halved"].ranges | {"height": SizeRange(min=4, max=64)}
    signature = complete(make("Halved"), replace(SIGNATURES["Halved"], ranges=ranges), seed=0)
    monkeypatch.setattr("export.capture_roads.sweep", lambda exported, capture: None)
    monkeypatch.setattr(Trial, "check", lambda self, answer: None)
    module = capture(make("Halved"), signature, seed=0).exported.module()
    with pytest.raises(RuntimeError, match="Runtime assertion failed"):
        module(torch.zeros(2, 1, 4, 9))


def test_what_torch_suggests_as_a_form_of_size_is_not_read_as_a_size() -> None:
    suggestion = "Constraints violated (height)!\nSuggested fixes:\n  _height = Dim('_height', max=16)\n  height = {}\n"
    for form, words in (("4*_height - 3", r"sizes of the form 4\*n - 3"), ("4", "fixes it to 4")):
        none = NoRoadError([Refusal("torch.export", RuntimeError(suggestion.format(form)))])
        assert re.search(words, explain(none, SIGNATURES["Halved"]))
