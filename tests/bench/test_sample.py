"""The measuring job, in this process, and the block that it times; and what happens to a candidate that crashes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.block import Block
from bench.measure import Session, measure_together
from bench.sample import BenchSpec, Sampled, SampleJob, crossed, sample
from export.backend import LoadOptions
from export.record import to_json
from export.worker import Desk
from tests.conftest import Builder
from tests.models import source

QUICK = BenchSpec(batch_rows=(1, 32), processes_count=2, rounds_count=6, warmup_s=0.01)


def job(folders: list[Path], spec: BenchSpec, tmp_path: Path) -> Any:
    return to_json(
        SampleJob(
            artifacts=tuple(map(str, folders)),
            source=source("Mlp"),
            options=LoadOptions(threads_count=2),
            spec=spec,
            samples=None,
            seed=0,
            current=str(tmp_path / "current"),
        )
    )


def spin(seconds: float) -> None:
    until = time.perf_counter() + seconds  # noqa: TID251 - a load of known length, not a measurement
    while time.perf_counter() < until:  # noqa: TID251
        pass


@pytest.mark.parametrize("spin_s", [20e-6, 200e-6, 2e-3])
def test_a_known_time_is_recovered(spin_s: float) -> None:
    """The fastest of 20 blocks, since another process may take the core in some; delays only add."""
    block = Block([lambda: spin(spin_s)] * 4, lambda: None)
    block.warm_up(5, 0.02, 1.0, 0.002)
    assert min(block.sample_s() for _ in range(20)) == pytest.approx(spin_s, rel=0.05)


def test_buffers_are_used_equally_often_also_when_a_block_is_one_call() -> None:
    used = [0, 0, 0, 0]

    def call(index: int, seconds: float) -> None:
        used[index] += 1
        spin(seconds)

    for seconds, block_s in ((1e-5, 2e-3), (0.01, 2e-3)):
        used[:] = [0, 0, 0, 0]
        block = Block([lambda i=i, s=seconds: call(i, s) for i in range(4)], lambda: None)  # type: ignore[misc]
        block.warm_up(4, 0.0, 1.0, block_s)
        used[:] = [0, 0, 0, 0]
        for _ in range(8):
            block.sample_s()
        assert max(used) == min(used) > 0


def test_every_candidate_has_one_sample_in_every_round(build_model: Builder, tmp_path: Path) -> None:
    folders = [build_model("Mlp", name)[0] for name in ("torchscript", "onnx", "eager")]
    sampled = sample(job(folders, QUICK, tmp_path))
    assert {(one.artifact, one.batch_rows) for one in sampled.series} == {
        (folder.name, rows) for folder in folders for rows in (1, 32)
    }
    assert {len(one.samples_s) for one in sampled.series} == {6}
    assert all(one.warmup_calls_count >= 5 and one.warmup_s >= 0.01 for one in sampled.series)
    assert sampled.left_out == {}


def test_a_batch_that_takes_too_long_is_left_out_with_the_reason_but_not_the_smallest(
    build_model: Builder, tmp_path: Path
) -> None:
    spec = BenchSpec(batch_rows=(1, 32), processes_count=2, rounds_count=5, call_limit_s=1e-9)
    sampled = sample(job([build_model("Mlp", "onnx")[0]], spec, tmp_path))
    assert isinstance(sampled, Sampled)
    assert {one.batch_rows for one in sampled.series} == {1}
    assert list(sampled.left_out) == ["32"]
    assert "bench.call_limit_s is 1e-09 s" in sampled.left_out["32"]


def test_crossed_buffers_are_found() -> None:
    one, other = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    assert crossed({"a": one, "b": other}, [one, other]) is None
    assert crossed({"a": one, "b": other}, [one, one]) == "b"
    assert crossed({"a": one * np.nan}, [one]) == "a"


def test_a_candidate_that_brings_the_process_down_is_named_and_left_out(build_model: Builder, tmp_path: Path) -> None:
    """A torn file under a record that vouches for it: loading fails, the others are measured."""
    import shutil
    from dataclasses import replace

    from export.artifact import RECORD, Artifact
    from export.record import digest_files, read, write

    good = build_model("Mlp", "onnx")[0]
    torn = tmp_path / "torchscript"
    shutil.copytree(build_model("Mlp", "torchscript")[0], torn)
    (torn / "model.ts").write_bytes((torn / "model.ts").read_bytes()[:500])
    artifact = read(Artifact, torn / RECORD)
    write(torn / RECORD, replace(artifact, files=digest_files(torn, [torn / "model.ts"])))
    session = Session(
        folders={"onnx": good, "torchscript": torn},
        source=source("Mlp"),
        options=LoadOptions(threads_count=2),
        spec=QUICK,
        samples=None,
        seed=0,
        key="k",
    )
    done: list[int] = []
    measurements, dropped = measure_together(session, Desk(folder=tmp_path / "desk"), done.append)
    assert list(measurements) == ["onnx"]
    assert measurements["onnx"].session == ("onnx",)
    assert {one.process for one in measurements["onnx"].samples} == {0, 1}
    assert list(dropped) == ["torchscript"]
    assert dropped["torchscript"].status in {"failed", "crashed"}
    assert done == [1, 2]


@pytest.mark.parametrize(
    "bad",
    [
        {"batch_rows": ()},
        {"batch_rows": (0,)},
        {"processes_count": 1},
        {"rounds_count": 3},
        {"block_s": 0.0},
        {"tie_ratio": 1.0},
        {"call_limit_s": 0.0},
    ],
)
def test_settings_must_make_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        BenchSpec(**bad)
