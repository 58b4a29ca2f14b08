"""Several processes train as one would: the same losses on the same rows, one set of files; kills change no bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from export.device import HOST
from export.errors import UserError
from pipeline.recipe import Recipe, TrainSpec
from pipeline.training.distributed import World
from pipeline.training.train import follow, train
from pipeline.training.watch.progress import Progress
from tests.conftest import environ
from tests.pipeline.training.small import (
    Net,
    begun,
    everything,
    kill_at,
    metrics,
    recipe,
    run,
    same_bits,
    wait_for_lines,
    weights,
)  # fmt: skip

SIZE = 2
TOLERANCE = 1e-5
"""Of a loss, relative: the sums of gradients are rounded in another order."""


class Exact(Net):
    """No batch norm, no dropout: what one process computes of a batch is the sum of what several do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 16), nn.ReLU())


def exact(**settings: Any) -> Recipe:
    return replace(recipe(log_every_steps=1, lr=0.01, batch_rows=7, **settings), model=Exact)


def accumulating() -> Recipe:
    return exact(accumulate=2, clip_norm=0.5)


def stateful() -> Recipe:
    wanted = everything("numbered")
    assert isinstance(wanted.train, TrainSpec)
    return replace(wanted, train=replace(wanted.train, accumulate=1))  # batch norm takes no part of one row


def rank_of(size: int, rank: int, wanted: Any, folder: Path) -> None:
    """One of several processes, as torchrun would start it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}.store", rank=rank, world_size=size)
    world, made = World(rank, size), wanted()
    with folder.with_suffix(".log").open("a", buffering=1) as log:
        said = Progress(say=lambda text: print(text, file=log), advance=lambda done, total, note: None)
        try:
            if world.writes:
                train(made, HOST, folder, "key", said, world)
            else:
                follow(made, HOST, folder, "key", world)
        except UserError as error:
            print(error, file=log)
            raise SystemExit(2) from error
    dist.destroy_process_group()


def together(wanted: Any, folder: Path, size: int = SIZE) -> list[BaseProcess]:
    Path(f"{folder}.store").unlink(missing_ok=True)
    return [begun(rank_of, (size, rank, wanted, folder), folder) for rank in range(size)]


def ended(processes: list[BaseProcess]) -> list[int | None]:
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


@pytest.mark.parametrize("wanted", [exact, accumulating])
def test_two_processes_have_the_losses_of_one_on_the_same_rows(wanted: Any, tmp_path: Path) -> None:
    run(wanted(), tmp_path / "alone")
    assert ended(together(wanted, tmp_path / "both")) == [0, 0]
    alone, both = metrics(tmp_path / "alone"), metrics(tmp_path / "both")
    assert len(alone) == len(both) == 3 * 9 + 3
    for first, second in zip(alone, both, strict=True):
        assert first.keys() == second.keys()
        for name in first.keys() & {"loss", "train_loss", "validation_loss", "gradient_norm"}:
            assert second[name] == pytest.approx(first[name], rel=TOLERANCE)
    for name, tensor in weights(tmp_path / "alone").items():
        torch.testing.assert_close(weights(tmp_path / "both")[name], tensor, rtol=1e-4, atol=1e-6)
    assert json.loads((tmp_path / "both" / "checkpoint.json").read_bytes())["world_size"] == SIZE


def kill_second(wanted: Any, folder: Path) -> None:
    """Train in two processes, one of which is killed on the way; the other does not wait for ever."""
    first, second = together(wanted, folder)
    wait_for_lines(first, folder, 14)
    assert second.pid is not None
    os.kill(second.pid, signal.SIGKILL)
    assert ended([first, second]) == [2, -signal.SIGKILL]


def assert_a_restart_changes_no_bit(wanted: Any, killed: Path, whole: Path) -> None:
    """Beside a training that is left alone."""
    assert ended(together(wanted, whole)) == [0, 0]
    assert ended(together(wanted, killed)) == [0, 0]
    assert same_bits(weights(killed), weights(whole))
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert "resumed after epoch" in killed.with_suffix(".log").read_text()


def test_a_killed_process_is_the_end_of_all_and_a_restart_changes_no_bit(tmp_path: Path) -> None:
    kill_second(stateful, tmp_path / "killed")
    assert "rank 0 of 2 lost the others at step" in (tmp_path / "killed.log").read_text()
    assert_a_restart_changes_no_bit(stateful, tmp_path / "killed", tmp_path / "whole")


def test_another_number_of_processes_goes_on_and_says_what_is_not_exact(tmp_path: Path) -> None:
    first, second = together(stateful, tmp_path / "run")
    kill_at(first, tmp_path / "run", 14)
    second.join()
    lines: list[str] = []
    run(stateful(), tmp_path / "run", lines)
    assert lines[0].startswith("the state was saved by 2 processes, 1 go on")
    assert len(metrics(tmp_path / "run")) == 27


@pytest.mark.slow
def test_torchrun_trains_a_recipe_and_the_pipeline_goes_on_from_there(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text("from tests.pipeline.training.test_distributed import exact as recipe\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "pipeline.train"]
    for said in ("on cpu, 2 processes", "reused, trained"):
        done = subprocess.run(
            [*torchrun, "shared.py"], cwd=tmp_path, env=environ(OMP_NUM_THREADS="1"), capture_output=True, text=True,
            check=False, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert said in done.stdout
    assert done.stdout.count("recipe small") == 1, "one process speaks"
    story = subprocess.run(
        [sys.executable, "-m", "pipeline.all", "shared.py", "--only", "train"], cwd=tmp_path, env=environ(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "reused, trained" in story.stdout
