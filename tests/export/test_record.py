from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from export.errors import RecordError
from export.files import digest_files, publish, verify_files
from export.record import Observed, Record, decode, digest, encode, key_of, read, write
from pipeline.bundle.writer import _write_bare
from tests.conftest import environ


@dataclass(frozen=True, kw_only=True)
class Thing(Record):
    SCHEMA: ClassVar[str] = "torchstone.test/1"

    name: str
    figures: tuple[float, ...]
    count: int | None
    observed: Observed


THING = Thing(
    name="a",
    figures=(1.0, 0.1, math.nan, math.inf, -math.inf, 1e-300),
    count=None,
    observed=Observed(at="2026-01-01T00:00:00+00:00", duration_s=1.5, host="h"),
)


def test_a_record_comes_back_as_it_was_non_finite_numbers_included() -> None:
    again = decode(Thing, encode(THING))
    assert repr(again) == repr(THING)
    assert json.loads(encode(THING))["figures"][2:5] == ["NaN", "Infinity", "-Infinity"]


@given(st.floats())
@example(1994560477102534700.0)  # a float without a fraction that JSON spells without an exponent
@example(2.0**53)
@example(-5e-324)
def test_every_float_survives_a_round_trip(value: float) -> None:
    (again,) = decode(Thing, encode(replace(THING, figures=(value,)))).figures
    assert again == value or (math.isnan(again) and math.isnan(value))


@given(st.floats())
@example(1994560477102534700.0)
def test_a_record_that_is_written_once_more_without_its_host_keeps_its_digest(value: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        record = replace(THING, figures=(value,))
        _write_bare(Path(folder) / "bare.json", encode(record))
        bare = read(Thing, Path(folder) / "bare.json")
    assert bare.observed.host == ""
    assert digest(bare) == digest(record)


def test_observed_is_outside_the_digest_and_everything_else_inside() -> None:
    later = replace(THING, observed=Observed(at="2030-01-01T00:00:00+00:00", duration_s=9.0, host="other"))
    assert digest(later) == digest(THING)
    assert digest(replace(THING, name="b")) != digest(THING)
    assert digest(replace(THING, figures=(1.0,))) != digest(THING)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"name":"a"', b'"name":"a","more":1', "canonical"),
        (b'"name":"a"', b'"name": "a"', "canonical"),
        (b'"name":"a"', b'"name":1', "name"),
        (b'"count":null', b'"count":"3"', "count"),
        (b'"count":null,', b"", "count"),
        (b"torchstone.test/1", b"torchstone.test/2", "schema"),
        (b"{", b"", "JSON"),
    ],
)
def test_an_edited_record_is_refused_with_the_reason(old: bytes, new: bytes, reason: str) -> None:
    data = encode(THING)
    assert old in data
    with pytest.raises(RecordError, match=reason):
        decode(Thing, data.replace(old, new, 1))


def test_a_text_that_looks_like_a_number_that_json_lacks_is_refused() -> None:
    with pytest.raises(RecordError, match="reserved"):
        encode(replace(THING, name="NaN"))


def test_a_missing_record_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"thing\.json cannot be read"):
        read(Thing, tmp_path / "thing.json")


def test_writing_leaves_one_file_and_replaces_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "thing.json", THING)
    write(tmp_path / "thing.json", replace(THING, name="b"))
    assert [path.name for path in tmp_path.iterdir()] == ["thing.json"]
    assert read(Thing, tmp_path / "thing.json").name == "b"


def test_every_changed_missing_or_linked_file_is_named(tmp_path: Path) -> None:
    for name in ("same", "changed", "missing", "linked"):
        (tmp_path / name).write_text(name)
    files = digest_files(tmp_path, list(tmp_path.iterdir()))
    verify_files(tmp_path, files)
    (tmp_path / "changed").write_text("CHANGED")
    (tmp_path / "missing").unlink()
    (tmp_path / "linked").rename(tmp_path / "elsewhere")
    (tmp_path / "linked").symlink_to("elsewhere")
    with pytest.raises(RecordError) as caught:
        verify_files(tmp_path, files)
    for name in ("changed", "missing", "linked"):
        assert str(tmp_path / name) in str(caught.value)
    assert str(tmp_path / "same") not in str(caught.value)


def test_publishing_replaces_a_stale_folder(tmp_path: Path) -> None:
    for name, content in (("new", "new"), ("target", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(content)
    publish(tmp_path / "new", tmp_path / "target")
    assert (tmp_path / "target" / "file").read_text() == "new"
    assert not (tmp_path / "new").exists()


def test_a_key_depends_on_names_and_values_not_on_order() -> None:
    assert key_of(a=1, b="x") == key_of(b="x", a=1)
    assert key_of(a=1) != key_of(b=1)
    assert key_of(a=(1, 2)) != key_of(a=(2, 1))


CONVERTING = """
import sys, threading
from dataclasses import make_dataclass
from export.record import from_json

sys.setswitchinterval(1e-6)
value = {f"field_{k}": [{"a": 1, "b": [1.0], "c": {"x": 1}}] for k in range(20)}
for number in range(400):
    fields = [("a", "int"), ("b", "tuple[float, ...]"), ("c", "dict[str, int]")]
    parts = [make_dataclass(f"Part{k}", fields) for k in range(20)]
    whole = make_dataclass(f"Whole{number}", [(f"field_{k}", tuple[part, ...]) for k, part in enumerate(parts)])
    together = threading.Barrier(4)

    def convert():
        together.wait()
        from_json(whole, value)

    threads = [threading.Thread(target=convert) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
print("all converted")
"""


def test_threads_that_meet_a_kind_of_record_together_do_not_crash() -> None:
    """Rows are judged side by side: msgspec alone ends this process by a segmentation fault."""
    done = subprocess.run(
        [sys.executable, "-c", CONVERTING], env=environ(), capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "all converted\n"), done.stderr[:500]
