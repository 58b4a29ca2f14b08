"""What is seen of a training while it runs: figures, times, a trace, trackers, the bar."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from export.device import HOST
from export.errors import UserError
from pipeline.training.train import train
from pipeline.training.watch import stopwatch, watcher
from pipeline.training.watch.progress import Progress
from tests.pipeline.training.small import EPOCHS, STEPS_COUNT, begin, everything, kill_at, metrics, recipe, run

HAVE_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None
HAVE_MLFLOW = importlib.util.find_spec("mlflow") is not None


def test_metrics_have_a_line_an_epoch_and_where_asked_a_line_every_so_many_steps(tmp_path: Path) -> None:
    run(recipe(log_every_steps=5, clip_norm=100.0), tmp_path)
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines if "step" in line] == list(range(5, STEPS_COUNT + 1, 5))
    assert all({"loss", "lr", "gradient_norm", "epoch"} < line.keys() for line in lines if "step" in line)
    epochs = [line for line in lines if "train_loss" in line]
    assert [line["epoch"] for line in epochs] == list(range(1, EPOCHS + 1))
    expected = {"epoch", "train_loss", "lr", "gradient_norm", "validation_loss", "validation_accuracy"}
    assert all(line.keys() == expected for line in epochs)


def test_a_metric_of_any_name_is_said_with_its_split(tmp_path: Path) -> None:
    lines: list[str] = []
    with_skill = replace(recipe(epochs=1), metrics={"skill": lambda outputs, targets: 0.25})
    progress = Progress(say=lines.append, advance=lambda done, total, note: None)
    train(with_skill, HOST, tmp_path, "key", progress)
    assert lines[-3:-1] == ["skill: 0.25 (train)", "skill: 0.25 (validation)"]
    assert lines[-1].startswith("Final Loss: ")


def test_the_gradient_norm_is_that_of_plain_pytorch(tmp_path: Path) -> None:
    from tests.pipeline.training.small import Net, loss, rows

    run(recipe(epochs=1, batch_rows=None), tmp_path)
    torch.manual_seed(3)
    module, split = Net().train(), rows()
    loss(module(split.inputs["x"]), split.targets).backward()
    norm = torch.sqrt(sum((each.grad.square().sum() for each in module.parameters()), start=torch.zeros(())))  # type: ignore[union-attr]
    assert metrics(tmp_path)[0]["gradient_norm"] == pytest.approx(norm.item(), rel=1e-5)


def test_speed_is_kept_apart_with_the_share_of_each_part(tmp_path: Path) -> None:
    checkpoint = run(recipe(), tmp_path)
    (line,) = [json.loads(text) for text in (tmp_path / "speed.jsonl").read_text().splitlines()]
    shares = [line[f"{part}_share"] for part in ("data", "forward", "backward", "optimizer")]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert all(share > 0 for share in shares)
    assert line["rows_per_s"] * line["duration_s"] == pytest.approx(60 * EPOCHS, rel=0.05)
    assert line["memory_bytes"] > 1 << 20
    assert {file.path for file in checkpoint.files} == {"metrics.jsonl", "weights.safetensors"}


def test_a_part_that_takes_long_has_a_large_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(float(number) for number in range(10_000))
    watch = stopwatch.Stopwatch(HOST)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    watch.begin_step()
    watch.lap("data")
    for _ in range(7):
        next(clock)
    watch.lap("forward")
    figures = watch.read()
    assert figures["forward_share"] == pytest.approx(8 / 9, abs=1e-3)


def test_the_bar_moves_within_an_epoch_with_the_loss_and_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "_SHOW_S", 0.0)
    moves: list[tuple[float, int, str]] = []
    progress = Progress(say=lambda text: None, advance=lambda *move: moves.append(move))
    train(recipe(), HOST, tmp_path, "key", progress)
    assert [done for done, _, _ in moves] == sorted(done for done, _, _ in moves)
    assert moves[0][0] == pytest.approx(1 / 8)
    assert moves[-1][:2] == (EPOCHS, EPOCHS)
    assert all(note.startswith("loss ") and note.endswith(" rows/s") for _, _, note in moves)


def test_a_trace_of_a_few_steps_is_left_where_it_is_asked_for(tmp_path: Path) -> None:
    run(recipe(profile=True), tmp_path / "long")
    trace = json.loads((tmp_path / "long" / "trace.json").read_bytes())
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert sum(name.startswith("ProfilerStep#") for name in names if name) >= 5
    assert any("addmm" in name for name in names)
    run(recipe(), tmp_path / "none")
    assert not (tmp_path / "none" / "trace.json").exists()


@pytest.mark.extra
@pytest.mark.skipif(not HAVE_TENSORBOARD, reason="extra: pip install 'torchstone[tensorboard]' brings TensorBoard")
def test_tensorboard_has_each_step_once_also_after_a_kill(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kill_at(begin(followed, (), tmp_path / "run"), tmp_path / "run", 13)
    run(followed(), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    scalars = events.Scalars("loss")
    assert [scalar.step for scalar in scalars] == list(range(1, STEPS_COUNT + 1))
    expected = [line["loss"] for line in metrics(tmp_path / "run") if "step" in line]
    assert [scalar.value for scalar in scalars] == pytest.approx(expected, rel=1e-6)


def followed() -> Any:
    wanted = everything("memory")
    return replace(wanted, train=replace(wanted.train, tensorboard=True))  # type: ignore[type-var]


@pytest.mark.extra
@pytest.mark.skipif(not HAVE_MLFLOW, reason="extra: pip install 'torchstone[mlflow]' brings MLflow")
def test_mlflow_has_the_figures_of_each_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run(recipe(mlflow=True), tmp_path)
    client = MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    (experiment,) = [each for each in client.search_experiments() if each.name == "torchstone"]
    (logged,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(logged.info.run_id, "train_loss")
    assert [each.value for each in history] == [line["train_loss"] for line in metrics(tmp_path)]
    assert logged.info.status == "FINISHED"


@pytest.mark.parametrize(("flag", "package"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow")])
def test_a_tracker_that_is_not_installed_names_the_command(
    flag: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    settings: dict[str, Any] = {flag: True}
    with pytest.raises(UserError, match=rf"--train\.{flag} needs .*pip install '.*\[{flag}\]'"):
        run(recipe(**settings), tmp_path)


def test_a_compiled_module_trains_and_keeps_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[nn.Module] = []

    def compile_module(self: nn.Module) -> None:
        calls.append(self)

    monkeypatch.setattr(nn.Module, "compile", compile_module)
    run(recipe(compile=True), tmp_path)
    assert len(calls) == 1
