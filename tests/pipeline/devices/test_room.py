"""Children that share a GPU: as many at once as its memory holds, and never none."""

from __future__ import annotations

import pytest

from export.device import HOST
from export.environment import cores_count
from pipeline.process import room
from pipeline.process.room import at_once
from tests.bench.gpus.rig import Rig
from tests.fake_nvml import FakeGpu, install

GIB = 1 << 30


@pytest.mark.parametrize(
    ("used_gib", "weights_gib", "count"),
    [(1, 0, 16), (70, 0, 6), (79, 0, 1), (1, 1, 10), (1, 10, 1), (1, 40, 1)],
)
def test_as_many_work_at_once_as_fit_the_memory_that_is_free(
    used_gib: int, weights_gib: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "cores_count", lambda: 16)
    install(monkeypatch, FakeGpu(used_bytes=used_gib * GIB))
    assert at_once(Rig("rig"), weights_gib * GIB) == count


def test_where_the_driver_does_not_tell_and_on_the_cpu_all_cores_work(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = install(monkeypatch, FakeGpu(used_bytes=79 * GIB))
    nvml.silent.add("nvmlDeviceGetMemoryInfo")
    assert at_once(Rig("rig"), GIB) == at_once(HOST, GIB) == cores_count()
