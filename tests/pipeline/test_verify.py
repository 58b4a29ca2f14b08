"""A bundle held against its manifest and its proof: what is changed in it is refused by name, and never run."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.parity.levels import fidelity
from pipeline.verifier import lineage, needs, progress
from pipeline.verifier import verify as command
from pipeline.verifier.files import read_manifest, verify_files
from pipeline.verifier.golden import check_golden
from pipeline.verifier.lineage import verify_lineage
from pipeline.verifier.outcome import Refused
from tests.conftest import ROOT
from tests.pipeline.bundles import alter_weight, check, edit, forge, forge_all, run_check

# --- accepted ---------------------------------------------------------------------------------------------------------


def test_a_bundle_is_accepted_by_a_fresh_process_in_seconds(bundle: Path) -> None:
    done = run_check(bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "accepted"
    message = [line.split(maxsplit=1)[0] for line in lines]
    assert message == [
        "hashes",
        "bundle",
        "signature",
        "runs",
        "lineage",
        "parity",
        "cold",
        *["latency"] * 3,
        "accepted",
    ]
    assert re.search(r"batch 1: [\d.]+ us \([\d.]+ us where it was shipped; [\d.]+ times that in units", done.stdout)


def test_the_card_says_what_the_records_say_and_its_example_runs(bundle: Path) -> None:
    card = (bundle / "README.md").read_text()
    assert "# seed" in card
    assert "`batch` was tested from 1 to 65536" in card
    assert "accuracy" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=bundle, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[array([[")


def test_nothing_of_the_machine_that_built_it_leaks(bundle: Path) -> None:
    """Names of folders and of the host; digests, versions and the processor's name are meant to be there."""
    private = [str(ROOT), str(Path.home()), sys.prefix, os.environ.get("TMPDIR", "/tmp/"), platform.node()]
    for path in bundle.rglob("*"):
        if path.is_file() and path.suffix != ".npy":
            text = path.read_bytes()
            leaked = [name for name in private if len(name) > 4 and name.encode() in text]
            assert not leaked, f"{path.name}: {leaked}"
            assert b'"host":"' not in text or b'"host":""' in text


# --- changed, missing, added, renamed, linked -------------------------------------------------------------------------


def _flipped(folder: Path, path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _linked(folder: Path, path: Path) -> None:
    aside = folder.parent / "aside"
    shutil.move(path, aside)
    path.symlink_to(aside)


def _replaced(path: Path, make: Callable[[Path], Any]) -> None:
    path.unlink()
    make(path)


CHANGES: dict[str, Callable[[Path, Path], Any]] = {
    "changed": _flipped,
    "longer": lambda folder, path: path.write_bytes(path.read_bytes() + b"\n"),
    "emptied": lambda folder, path: path.write_bytes(b""),
    "missing": lambda folder, path: path.unlink(),
    "renamed": lambda folder, path: path.rename(path.with_name(path.name + "2")),
    "linked": _linked,
    "a folder": lambda folder, path: _replaced(path, Path.mkdir),
    "a pipe": lambda folder, path: _replaced(path, os.mkfifo),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_file_is_guarded(change: str, bundle: Path) -> None:
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        relative = path.relative_to(bundle).as_posix()
        kept = path.read_bytes()
        CHANGES[change](bundle, path)
        if relative == "manifest.json":
            with pytest.raises(Refused):
                check(bundle)
        else:
            with pytest.raises(Refused, match=re.escape(relative)):
                verify_files(bundle, read_manifest((bundle / "manifest.json").read_bytes()))
        for stray in (path, path.with_name(path.name + "2"), bundle.parent / "aside"):
            shutil.rmtree(stray) if stray.is_dir() and not stray.is_symlink() else stray.unlink(missing_ok=True)
        path.write_bytes(kept)
    check(bundle)


def test_without_the_check_of_files_a_changed_one_is_accepted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: what refuses above is this check and no other."""
    _flipped(bundle, bundle / "README.md")
    monkeypatch.setattr(
        command, "verify_files", lambda folder, *_, copy: shutil.copytree(folder, copy, dirs_exist_ok=True)
    )
    check(bundle)


@pytest.mark.parametrize("place", ["extra.txt", "serving/extra", ".hidden", "golden/00/inputs/y.npy", "MODEL.onnx"])
def test_an_added_file_is_refused_by_name(place: str, bundle: Path) -> None:
    (bundle / place).write_bytes(b"x")
    with pytest.raises(Refused, match=re.escape(place)):
        check(bundle)


def test_a_name_that_is_not_text_is_refused_with_the_reason(bundle: Path) -> None:
    (bundle / os.fsdecode(b"\xff.bin")).write_bytes(b"x")
    done = run_check(bundle)
    assert (done.returncode, done.stdout.splitlines()) == (1, ["refused: \\udcff.bin is not in the manifest"])
    assert run_check(bundle, "--json").returncode == 1


def test_an_added_folder_is_refused(bundle: Path) -> None:
    (bundle / "empty").mkdir()
    with pytest.raises(Refused, match="empty"):
        check(bundle)


def _with_entry(**changes: Any) -> Callable[[Any], Any]:
    def change(fields: Any) -> None:
        fields["files"][3] |= changes

    return change


MANIFESTS: dict[str, Callable[[Any], Any]] = {
    "another schema": lambda fields: fields.update(schema="torchstone.manifest/9"),
    "no schema": lambda fields: fields.pop("schema") and None,
    "no key": lambda fields: fields.pop("key") and None,
    "a number as key": lambda fields: fields.update(key=1),
    "one member more": lambda fields: fields.update(more=1),
    "no files": lambda fields: fields.update(files=[]),
    "files no list": lambda fields: fields.update(files={}),
    "a path that leaves": _with_entry(path="../x"),
    "an absolute path": _with_entry(path="/etc/passwd"),
    "a drive": _with_entry(path="c:/x"),
    "backslashes": _with_entry(path="a\\b"),
    "a dot": _with_entry(path="./x"),
    "an empty part": _with_entry(path="a//b"),
    "no text": _with_entry(path=7),
    "the manifest itself": _with_entry(path="manifest.json"),
    "a NUL": _with_entry(path="a\0b"),
    "a deep path": _with_entry(path="/".join("a" * 40)),
    "a negative size": _with_entry(size_bytes=-1),
    "a size that is not a number": _with_entry(size_bytes="9"),
    "a size that is true": _with_entry(size_bytes=True),
    "another size": _with_entry(size_bytes=1),
    "a short digest": _with_entry(sha256="ab"),
    "another digest": _with_entry(sha256="0" * 64),
    "a digest in capitals": _with_entry(sha256="A" * 64),
    "an entry more": lambda fields: fields["files"][0].update(more=1),
    "an entry doubled": lambda fields: fields["files"].insert(0, fields["files"][0]),
    "another order": lambda fields: fields["files"].reverse(),
    "an entry less": lambda fields: fields["files"].pop() and None,
    "a list": lambda fields: [fields],
}


@pytest.mark.parametrize("change", MANIFESTS)
def test_every_field_of_the_manifest_is_guarded(change: str, bundle: Path) -> None:
    edit(bundle / "manifest.json", MANIFESTS[change])
    with pytest.raises(Refused):
        check(bundle)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[" * 100_000, b'{"a":1,"a":2}', b"\xff\xfe", b"NaN", b'{"schema":"torchstone.manifest/1"} ', b"null"],
    ids=repr,
)
def test_what_is_not_a_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        read_manifest(data)


def test_a_digest_from_elsewhere_pins_the_whole_bundle(bundle: Path) -> None:
    digest = check(bundle)["sha256"]
    assert run_check(bundle, "--digest", digest, "--no-speed").returncode == 0
    (bundle / "README.md").write_text("other")
    forge(bundle)
    done = run_check(bundle, "--digest", digest, "--no-speed")
    assert done.returncode == 1
    assert f"{digest} is asked for" in done.stdout


# --- a forged manifest: the chain of records and the golden samples ---------------------------------------------------


RECORDS = {
    "recipe": "records/recipe.json",
    "checkpoint": "records/checkpoint.json",
    "program": "records/program.json",
    "reference": "records/reference.json",
    "verdict": "records/verdict.json",
    "artifact": "records/artifacts/onnx.json",
    "parity": "records/parity/onnx.json",
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_record_changed_with_its_manifest_breaks_the_chain(what: str, bundle: Path) -> None:
    edit(bundle / RECORDS[what], lambda fields: fields.update(key="0" * 64))
    forge(bundle)
    with pytest.raises(Refused, match=what):
        check(bundle)


def test_what_was_observed_lies_outside_of_the_chain(bundle: Path) -> None:
    edit(bundle / RECORDS["parity"], lambda fields: fields["observed"].update(host="elsewhere"))
    forge(bundle)
    check(bundle)


def test_a_verdict_that_it_may_not_ship_is_refused(bundle: Path) -> None:
    """Even where whoever changed it mends every digest that names it."""

    def refuse(fields: Any) -> None:
        next(row for row in fields["rows"] if row["name"] == "onnx")["shippable"] = False

    edit(bundle / RECORDS["verdict"], refuse)
    forge_all(bundle)
    with pytest.raises(Refused, match="may not ship"):
        check(bundle)


def test_another_model_is_refused_by_its_golden_answers(bundle: Path) -> None:
    alter_weight(bundle, 1.01)
    done = run_check(bundle)
    assert done.returncode == 1
    assert re.search(
        r"^refused: onnx: probability\[\d+, 0\] \(.*\) is [\d.e-]+, golden is .* may differ$", done.stdout, re.M
    )


def test_without_what_is_allowed_another_model_is_accepted(bundle: Path) -> None:
    """The twin: golden samples that allow everything."""
    alter_weight(bundle, 1.01)
    for path in bundle.glob("golden/*/allowed/*.npy"):
        np.save(path, np.full_like(np.load(path), 1e30))
    forge(bundle)
    check(bundle)
    for path in bundle.glob("golden/*/allowed/*.npy"):
        np.save(path, np.full_like(np.load(path), np.inf))
    forge(bundle)
    with pytest.raises(Refused, match="nothing that could be compared"):
        check(bundle)


def limit(folder: Path, **limits: float | None) -> None:
    """The recipe's limits in the bundle, as if they had been those from the beginning."""
    for place in ("bundle.json", "records/verdict.json"):
        edit(folder / place, lambda fields: fields["limits"].update(limits))
    forge_all(folder)


def test_a_limit_that_this_machine_does_not_meet_is_refused_and_speed_without_one_is_not(bundle: Path) -> None:
    limit(bundle, max_median_ms=1e-6)
    done = run_check(bundle)
    assert done.returncode == 1
    assert "the recipe allows 1e-06 ms" in done.stdout.splitlines()[-1]
    limit(bundle, max_median_ms=None, max_p99_ms=1e-6)
    assert "p99 is at least" in run_check(bundle).stdout.splitlines()[-1]
    limit(bundle, max_p99_ms=1e6, max_memory_mb=1.0)
    assert "the recipe allows 1 MiB" in run_check(bundle).stdout.splitlines()[-1]
    limit(bundle, max_memory_mb=None, max_cold_start_s=1e-6)
    assert "from nothing to the first answer, the best of 3" in run_check(bundle).stdout.splitlines()[-1]
    limit(bundle, max_cold_start_s=60.0)
    assert run_check(bundle).returncode == 0


FORGED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "other options": (lambda one: one["options"].update(threads_count=9), "other options"),
    "wider sizes": (lambda one: one["tested_sizes"]["batch"].update(max=1 << 30), "other options, sizes"),
    "a file elsewhere": (lambda one: one.update(file="../../model.onnx"), "not a file of the bundle"),
    "another file": (lambda one: one.update(file="workload.onnx"), "neither model.onnx nor an ONNX file in artifacts"),
    "a noise of its own": (lambda one: one.update(least_sqnr_db=-1000.0), "asks for -1000 dB"),
    "a name that leaves": (lambda one: one.update(name="../onnx"), "not a name of an artifact"),
    "the name of an older version": (lambda one: one.update(proved=one.pop("tested_sizes")), "hold together"),
    "a claim without a time": (lambda one: one["claim"].update(cold_s="fast"), "not made of times in seconds"),
    "a runtime that runs code": (lambda one: one.update(runtime="torch"), "does not lie in artifacts/onnx/"),
    "no needs": (lambda one: one.pop("needs") and None, "does not hold together"),
    "needs of another kind": (lambda one: one.update(needs=3), "does not hold together"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_what_the_bundle_says_of_an_artifact_is_what_its_records_say(kind: str, bundle: Path) -> None:
    change, reason = FORGED[kind]
    edit(bundle / "bundle.json", lambda fields: change(fields["shipped"][0]))
    forge(bundle)
    with pytest.raises(Refused, match=reason):
        check(bundle)


def test_the_check_asks_of_rounded_answers_what_parity_asks() -> None:
    """It stands alone, and so says the figure once more."""
    assert lineage.LEAST_SQNR_DB == fidelity.LEAST_SQNR_DB


def test_an_onnx_file_that_no_record_names_is_not_the_artifact(bundle: Path) -> None:
    (bundle / "artifacts" / "onnx").mkdir(parents=True)
    shutil.copyfile(bundle / "model.onnx", bundle / "artifacts" / "onnx" / "other.onnx")
    edit(bundle / "bundle.json", lambda fields: fields["shipped"][0].update(file="artifacts/onnx/other.onnx"))
    shutil.copyfile(bundle / "records" / "artifacts" / "onnx.json", bundle / "artifacts" / "onnx" / "artifact.json")
    forge(bundle)
    with pytest.raises(Refused, match="not those that its record names"):
        check(bundle)


def test_another_file_under_a_forged_manifest_is_not_the_one_that_was_proved(bundle: Path) -> None:
    """Bit for bit it must be the file of the artifact's record, also where its answers would be golden."""
    path = bundle / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\x32\x00")  # an empty documentation string
    forge(bundle)
    with pytest.raises(Refused, match="not those that its record names"):
        check(bundle)


class Rounding:
    """An artifact that answers what is golden, rounded to so many steps: what int8 does, by a known amount."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        answer = np.tanh(inputs["x"].astype("f8"))
        return {"y": (np.round(answer * self._steps) / self._steps).astype("f4"), "class": np.zeros(256, "i8")}


@pytest.mark.parametrize(("steps", "sqnr_db"), [(127, 49), (31, 36), (4, None)])
def test_int8_is_judged_by_signal_over_noise_and_not_element_by_element(
    steps: int, sqnr_db: int | None, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).standard_normal(256).astype("f4")
    answers = {"y": np.tanh(x.astype("f8")), "class": np.ones(256, "i8")}
    outputs = {}
    np.save(tmp_path / "x.npy", x)
    for name, expected in answers.items():
        np.save(tmp_path / f"{name}.npy", expected)
        np.save(tmp_path / f"{name}.allowed.npy", np.full(256, 1e-7 if name == "y" else 0.0, "f4"))
        dtype = "float32" if name == "y" else "int64"
        outputs[name] = {"expected": f"{name}.npy", "allowed": f"{name}.allowed.npy", "dtype": dtype}
    calls = [{"name": "rows", "real": True, "inputs": {"x": "x.npy"}, "outputs": outputs}]
    shipped = {"name": "onnx-int8", "least_sqnr_db": 20.0}
    if sqnr_db is None:
        with pytest.raises(Refused, match="dB of signal over quantisation noise here, at least 20 is demanded"):
            check_golden(np, tmp_path, calls, Rounding(steps), shipped)
    else:
        golden = check_golden(np, tmp_path, calls, Rounding(steps), shipped)
        assert abs(golden["sqnr_db"] - sqnr_db) < 2
        with pytest.raises(Refused, match="may differ"):
            check_golden(np, tmp_path, calls, Rounding(steps), shipped | {"least_sqnr_db": None})


# --- what it needs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("need", "reason"),
    [
        ({"onnxruntime": ">=99.0"}, "it needs onnxruntime >=99.0"),
        ({"torch": "==1.13.1"}, "it needs torch ==1.13.1"),
        ({"system": "plan9"}, "it was built for system plan9"),
        ({"machine": "riscv128"}, "it was built for machine riscv128"),
        ({"compute_capability": "999"}, "compute capability 999"),
        ({"openvino": ">=9999"}, "openvino"),
        ({"numpy": "==0.1"}, "it needs numpy ==0.1, this is"),
        ({"a-backend-from-outside": ">=2"}, "it needs a-backend-from-outside >=2, which is not installed"),
        ({"../numpy": ">=1"}, "not a package and a version of it"),
    ],
    ids=str,
)
def test_what_cannot_run_here_is_refused_before_it_is_loaded(
    need: Mapping[str, str], reason: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(bundle / "bundle.json", lambda fields: fields["shipped"][0].update(needs=need))
    forge(bundle)
    monkeypatch.setattr(command, "run_artifact", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(Refused, match=re.escape(reason)):
        check(bundle)


def test_instructions_that_the_processor_lacks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "_cpu_flags", lambda: {"avx2", "fma"})
    assert needs.cannot_run({"cpu_isa": "AVX2"}) is None
    reason = needs.cannot_run({"cpu_isa": "AVX512 AVX512_VNNI"})
    assert reason == "it contains AVX512 instructions, which this processor does not have"


def test_an_unknown_artifact_is_a_usage_error(bundle: Path) -> None:
    done = run_check(bundle, "--artifact", "tensorrt")
    assert (done.returncode, done.stderr.strip()) == (2, "error: the bundle has no artifact 'tensorrt', it has onnx")


def test_what_is_not_a_bundle_is_refused(tmp_path: Path) -> None:
    assert run_check(tmp_path).stdout.splitlines()[-1].startswith("refused: manifest.json is missing")


def test_a_long_check_shows_how_far_it_is_and_a_short_one_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 0.5, 3.0, 6.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = progress.ProgressBar(100, quiet=False)
    bar.add(10)
    assert capsys.readouterr().err == ""
    bar.add(40)
    assert "50%, 3 s left" in capsys.readouterr().err
    bar.add(30)
    assert "80%, 2 s left" in capsys.readouterr().err


def test_a_bundle_file_of_another_kind_is_refused(bundle: Path) -> None:
    for change in (
        lambda fields: fields.update(schema="torchstone.bundle/9"),
        lambda fields: fields.pop("golden") and None,
    ):
        kept = (bundle / "bundle.json").read_bytes()
        edit(bundle / "bundle.json", change)
        forge(bundle)
        with pytest.raises(Refused, match=r"bundle.json"):
            check(bundle)
        (bundle / "bundle.json").write_bytes(kept)


def test_the_lineage_goes_from_the_verdict_to_the_recipe(bundle: Path) -> None:
    fields = json.loads((bundle / "bundle.json").read_bytes())
    files = json.loads((bundle / "manifest.json").read_bytes())["files"]
    lineage = verify_lineage(bundle, fields, fields["shipped"][0], {file["path"]: file["sha256"] for file in files})
    assert re.fullmatch(r"verdict \w{8} <- parity \w{8} <- artifact \w{8} <- checkpoint \w{8} <- recipe \w{8}", lineage)
