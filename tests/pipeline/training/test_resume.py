"""A training that is killed anywhere ends as one that never was: weights, metrics and log, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.pipeline.training.small import (
    STEPS_COUNT,
    begin,
    everything,
    kill_at,
    metrics,
    recipe,
    run,
    same_bits,
    wait_for_lines,
    weights,
)  # fmt: skip

LINES_COUNT = STEPS_COUNT + 3
"""One a step and one an epoch."""


def killed_and_resumed(form: str, workers_count: int, points: list[int], folder: Path) -> None:
    """Killed at each point in turn, ended at last, and held to a training that was left alone."""
    whole, killed = folder / "whole", folder / "killed"
    lines: list[str] = []
    first = run(everything(form, workers_count), whole, lines)
    saves_count = 0
    for point in sorted(points):
        kill_at(begin(everything, (form, workers_count), killed), killed, point)
        assert not (killed / "checkpoint.json").exists()
        saves_count += (killed / "state.json").exists()
    process = begin(everything, (form, workers_count), killed)
    process.join()
    assert process.exitcode == 0
    said = killed.with_suffix(".log").read_text().splitlines()
    assert same_bits(weights(killed), weights(whole))
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert sum(line.startswith("resumed after epoch ") for line in said) == saves_count
    assert list(dict.fromkeys(line for line in said if not line.startswith("resumed"))) == lines
    assert len(metrics(whole)) == LINES_COUNT
    assert first.kept_epoch > 0


@pytest.mark.parametrize(
    ("form", "points"),
    [("memory", [5, 17, 24]), ("numbered", [11, 20]), ("loader", [13]), ("streamed", [22])],
)
def test_a_training_killed_within_an_epoch_ends_with_the_same_bits(
    form: str, points: list[int], tmp_path: Path
) -> None:
    killed_and_resumed(form, 0, points, tmp_path)


def test_ctrl_c_waits_for_the_end_of_a_step_and_saves(tmp_path: Path) -> None:
    process = begin(everything, ("memory",), tmp_path / "run")
    wait_for_lines(process, tmp_path / "run", 10)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 1
    saved = json.loads((tmp_path / "run" / "state.json").read_bytes())["fields"]
    assert saved["step"] == len([line for line in metrics(tmp_path / "run") if "step" in line]) >= 9
    lines: list[str] = []
    run(everything("memory"), tmp_path / "run", lines)
    assert lines[0] == f"resumed after epoch {saved['epoch']} of 3, at step {saved['epoch_step']} of the next"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize(("form", "workers_count"), [("memory", 0), ("numbered", 0), ("numbered", 2), ("loader", 0)])
def test_fifty_kills_at_random_steps_change_no_bit(form: str, workers_count: int, number: int, tmp_path: Path) -> None:
    """Ten trainings of each form, each killed up to three times."""
    draw = random.Random(f"{form} {workers_count} {number}")
    killed_and_resumed(form, workers_count, draw.sample(range(1, LINES_COUNT - 1), 1 + number % 3), tmp_path)


def test_a_state_of_another_training_is_left_aside(tmp_path: Path) -> None:
    class CutOffError(Exception):
        pass

    def cut_off(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise CutOffError

    run(recipe(), tmp_path / "whole")
    short = recipe(save_every_steps=1)
    calls = iter(range(10))

    def ends(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        assert short.loss is not None
        return short.loss(outputs, targets) if next(calls, None) is not None else cut_off(outputs, targets)

    with pytest.raises(CutOffError):
        run(replace(short, loss=ends), tmp_path / "other", key="another key")
    assert (tmp_path / "other" / "state.json").exists()
    lines: list[str] = []
    run(recipe(), tmp_path / "other", lines)
    assert "state.json is of another recipe, other settings or another version (another key)" in lines[0]
    assert same_bits(weights(tmp_path / "other"), weights(tmp_path / "whole"))


def test_metrics_that_were_changed_after_the_save_begin_the_training_anew(tmp_path: Path) -> None:
    process = begin(everything, ("memory",), tmp_path / "run")
    kill_at(process, tmp_path / "run", 12)
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_bytes(b"#" + path.read_bytes()[1:])
    lines: list[str] = []
    run(everything("memory"), tmp_path / "run", lines)
    assert "does not begin with the lines that were saved" in lines[0]
    assert len(metrics(tmp_path / "run")) == LINES_COUNT
