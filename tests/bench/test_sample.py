"""The measuring job, in this process, and the block that it times; and what happens to a candidate that crashes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.timing.block import Block
from bench.timing.conditions import Watch, warnings
from bench.timing.contender import Candidate
from bench.timing.inputs import mismatched_output
from bench.timing.measure import measure_together
from bench.timing.measurement import CONTROL
from bench.timing.processes.session import Session
from bench.timing.roofline import Ceilings, RooflineJob, Work, floor, roofline
from bench.timing.sample import Sampled, SampleJob, load_all, sample
from bench.timing.spec import BenchSpec
from export import registry
from export.artifact import PROGRAM_FILE
from export.backend import LoadOptions
from export.errors import UserError
from export.program import load_exported
from export.record import from_json
from export.worker import Workspace
from tests.conftest import Builder
from tests.models import source

QUICK = BenchSpec(
    batch_rows=(1, 32), processes_count=2, rounds_count=6, warmup_s=0.01, callers_s=0.02, cold_starts_count=1
)


def job(folders: list[Path], spec: BenchSpec, tmp_path: Path) -> SampleJob:
    return SampleJob(
        candidates=tuple(
            Candidate(label=folder.name, folder=str(folder), options=LoadOptions(threads_count=2)) for folder in folders
        ),
        source=source("Mlp"),
        spec=spec,
        samples=None,
        seed=0,
        process=0,
        current=str(tmp_path / "current"),
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
    series = [one for of_label in sampled.series.values() for one in of_label]
    assert {(label, one.batch_rows) for label, of_label in sampled.series.items() for one in of_label} == {
        (folder.name, rows) for folder in folders for rows in (1, 32)
    }
    assert {len(one.samples_s) for one in series} == {len(one.checked_s) for one in series} == {6}
    assert {
        label: [one.callers_count for one in concurrency] for label, concurrency in sampled.concurrency.items()
    } == {folder.name: [1, 4] for folder in folders}
    concurrency = [one for of_label in sampled.concurrency.values() for one in of_label]
    assert all(one.calls_count >= one.callers_count and one.duration_s >= 0.008 for one in concurrency)
    assert 0 < sampled.empty_block_s < sampled.empty_call_s < 1e-4
    assert all(one.warmup_calls_count >= 5 and one.warmup_s >= 0.01 for one in series)
    assert sampled.left_out == {}


def test_the_twin_is_loaded_for_itself_and_other_thread_counts_share(
    build_model: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an artifact whose threads torch decides on, in any order in which candidates are loaded."""
    folder = str(build_model("Mlp", "torchscript")[0])
    loads: list[Path] = []
    real = registry.load

    def counted(path: Path, *rest: Any) -> Any:
        loads.append(path)
        return real(path, *rest)

    monkeypatch.setattr(registry, "load", counted)
    labels = ("torchscript", CONTROL, "torchscript@1")
    candidates = tuple(
        Candidate(label=label, folder=folder, options=LoadOptions(threads_count=1 if "@" in label else 2), whole=False)
        for label in labels
    )
    for seed in range(6):
        loads.clear()
        one: Any = from_json(SampleJob, job([Path(folder)], QUICK, tmp_path))
        runners = load_all(replace(one, candidates=candidates, seed=seed), random.Random(seed))
        assert len(loads) == 2
        assert runners[CONTROL] is not runners["torchscript"] is runners["torchscript@1"]


def test_a_batch_that_takes_too_long_is_left_out_with_the_reason_but_not_the_smallest(
    build_model: Builder, tmp_path: Path
) -> None:
    spec = BenchSpec(batch_rows=(1, 32), processes_count=2, rounds_count=5, call_limit_s=1e-9)
    sampled = sample(job([build_model("Mlp", "onnx")[0]], spec, tmp_path))
    assert isinstance(sampled, Sampled)
    assert {one.batch_rows for one in sampled.series["onnx"]} == {1}
    assert list(sampled.left_out) == ["32"]
    assert "bench.call_limit_s is 1e-09 s" in sampled.left_out["32"]


def test_crossed_buffers_are_found() -> None:
    one, other = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    assert mismatched_output({"a": one, "b": other}, [one, other]) is None
    assert mismatched_output({"a": one, "b": other}, [one, one]) == "b"
    assert mismatched_output({"a": one * np.nan}, [one]) == "a"


def test_a_candidate_that_brings_the_process_down_is_named_and_left_out(build_model: Builder, tmp_path: Path) -> None:
    """A torn file under a record that vouches for it: loading fails, the others are measured."""
    import shutil

    from export.artifact import RECORD, Artifact
    from export.files import digest_files
    from export.record import read, write

    good = build_model("Mlp", "onnx")[0]
    torn = tmp_path / "torchscript"
    shutil.copytree(build_model("Mlp", "torchscript")[0], torn)
    (torn / "model.ts").write_bytes((torn / "model.ts").read_bytes()[:500])
    artifact = read(Artifact, torn / RECORD)
    write(torn / RECORD, replace(artifact, files=digest_files(torn, [torn / "model.ts"])))
    session = Session(
        folders={"onnx": good, "torchscript": torn},
        options={name: LoadOptions(threads_count=2) for name in ("onnx", "torchscript")},
        source=source("Mlp"),
        program=None,
        spec=QUICK,
        samples=None,
        seed=0,
        key="k",
    )
    done: list[int] = []
    measured = measure_together(session, Workspace(folder=tmp_path / "desk"), done.append)
    assert list(measured.measurements) == ["onnx"]
    assert measured.session is not None
    assert measured.session.artifacts == ("onnx",)
    onnx = measured.measurements["onnx"]
    assert {(one.process, one.threads_count) for one in onnx.samples} == {(p, t) for p in (0, 1) for t in (1, 2)}
    assert list(measured.dropped) == ["torchscript"]
    dropped = measured.dropped["torchscript"]
    assert dropped.status in {"failed", "crashed"}
    assert "Traceback" in dropped.log.read_text()  # of its own process, and not of the others' that came after it
    assert dropped.reproduce.exists()
    assert done == [1, 2, 3]
    (cold,) = onnx.cold_starts
    assert min(cold.start_s, cold.import_s, cold.load_s, cold.first_call_s) > 0
    assert cold.first_bytes is not None
    assert cold.peak_bytes is not None
    assert 10 << 20 < cold.first_bytes <= cold.peak_bytes < 1 << 30


def test_what_is_no_candidates_fault_ends_the_session_with_its_reason(build_model: Builder, tmp_path: Path) -> None:
    """Real rows that are not there, which no candidate reads."""
    session = Session(
        folders={"onnx": build_model("Mlp", "onnx")[0]},
        options={"onnx": LoadOptions(threads_count=2)},
        source=source("Mlp"),
        program=None,
        spec=QUICK,
        samples=tmp_path / "rows.safetensors",
        seed=0,
        key="k",
    )
    with pytest.raises(UserError, match=r"no candidate was at work\nThe whole story: .*measure-.\.log") as caught:
        measure_together(session, Workspace(folder=tmp_path / "workspace"), lambda _: None)
    assert "rows.safetensors" in str(caught.value)


def test_the_machine_is_watched_and_what_is_bad_is_said_with_its_number() -> None:
    watch = Watch(2)
    spin(0.05)
    seen = watch.stop()
    assert 0 < seen.capacity_cores <= 2
    quiet = replace(seen, steal_share=0.0, foreign_share=0.0, capacity_cores=2.0, throttled_count=0, swapped_bytes=0)
    assert warnings(quiet) == []
    bad = replace(quiet, steal_share=0.05, foreign_share=0.5, capacity_cores=1.0, throttled_count=3, swapped_bytes=4096)
    found = warnings(bad)
    assert len(found) == 5
    for number, message in zip(("5.0%", "50%", "1.0", "3 times", "4 KiB"), found, strict=True):
        assert number in message.message
        assert "more than" in message.message or "less than" in message.message


def test_another_processs_work_is_seen_as_foreign() -> None:
    """A real process that spins on a core while this one sleeps."""
    watch = Watch(2)
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(1.0)
        seen = watch.stop()
    finally:
        other.kill()
        other.wait()
    assert seen.foreign_share > 0.3
    assert any(one.kind == "foreign" for one in warnings(seen))


def test_work_is_counted_and_a_floor_names_the_term_that_binds() -> None:
    ceilings = Ceilings(threads_count=2, flops_per_s=1e9, bytes_per_s={"1000": 1e9, "100000": 1e8}, dispatch_s=1e-7)
    heavy = floor(Work(batch_rows=1, flops=10**9, bytes=10), ceilings)
    assert (heavy.term, heavy.least_s) == ("arithmetic", 1.0)
    cached, streamed = (floor(Work(batch_rows=1, flops=1, bytes=size), ceilings) for size in (900, 90_000))
    assert cached.term == streamed.term == "memory"
    assert cached.least_s == pytest.approx(9e-7)
    assert streamed.least_s == pytest.approx(9e-4)
    assert floor(Work(batch_rows=1, flops=1, bytes=10), ceilings).term == "dispatch"


def test_the_roofline_of_a_real_program_is_exact(build_model: Builder) -> None:
    """Mlp is 6-16-3: two matrix products, whose operations and bytes one can count by hand."""
    folder, artifact = build_model("Mlp", "onnx")
    program, signature = folder.parent / "program" / PROGRAM_FILE, artifact.signature
    job = RooflineJob(program=str(program), signature=signature, spec=QUICK, device="cpu", threads_counts=(1,))
    found = roofline(job)
    weights = sum(tensor.numel() for tensor in load_exported(program).state_dict.values())
    inputs, outputs = (sum(int(one.shape[-1]) for one in specs) for specs in (signature.inputs, signature.outputs))
    assert [one.batch_rows for one in found.work] == [1, 32]
    assert [one.bytes for one in found.work] == [4 * (weights + n * (inputs + outputs)) for n in (1, 32)]
    assert found.work[1].flops == 32 * found.work[0].flops > 0
    (ceilings,) = found.ceilings
    assert ceilings.flops_per_s > 1e9
    assert ceilings.dispatch_s < 1e-5


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
        {"callers": (0,)},
        {"threads": (0,)},
        {"cold_starts_count": -1},
    ],
)
def test_settings_must_make_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        BenchSpec(**bad)
