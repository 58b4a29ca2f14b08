"""Code of a bundle's maker runs only for those who trust him, and what was checked is what is loaded."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from export.environment import missing_compiler
from export.files import digest_file
from pipeline.verifier import private, running
from pipeline.verifier import verify as command
from pipeline.verifier.files import verify_files
from pipeline.verifier.lineage import verify_lineage
from pipeline.verifier.outcome import Refused
from tests.archives.pack import pack, parts_of
from tests.conftest import ROOT, environ
from tests.pipeline.bundles import alter_weight, check, edit, forge, forge_all, run_check

# Leaves a mark and a process behind when it is loaded.
_PAYLOAD = """
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void run(void) {
    FILE *mark = fopen(MARK, "a");
    if (fork() == 0) { fprintf(mark, "%d\\n", getpid()); fclose(mark); sleep(600); _exit(0); }
}
"""


@pytest.fixture(scope="module")
def with_code(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that holds compiled code beside ONNX: copy before you change it."""
    if (reason := missing_compiler()) is not None:
        pytest.skip(reason)
    serving = tmp_path_factory.mktemp("shipped") / "serving"
    command = [sys.executable, "-m", "pipeline.ship", built, "--to", serving, "--also", "aotinductor", "--quiet"]
    subprocess.run(list(map(str, command)), env=environ(), check=True)
    return (serving / "current").resolve()


@pytest.fixture
def forged(with_code: Path, tmp_path: Path) -> Path:
    """That bundle with a harmful library in the place of the compiled model, every digest recomputed, chosen to serve.

    What the library does is to be seen in the file ``ran`` beside the bundle.
    """
    folder = Path(shutil.copytree(with_code, tmp_path / "forged"))
    (tmp_path / "payload.c").write_text(_PAYLOAD)
    library = tmp_path / "payload.so"
    mark = f'-DMARK="{tmp_path / "ran"}"'
    subprocess.run(["gcc", "-shared", "-fPIC", mark, "-o", library, tmp_path / "payload.c"], check=True)
    package = folder / "artifacts" / "aotinductor" / "model.pt2"
    parts = [
        replace(part, data=library.read_bytes()) if part.name.endswith(b".so") else part
        for part in parts_of(package.read_bytes())
    ]
    package.unlink()  # which a serving form links
    package.write_bytes(pack(parts))
    edit(folder / "bundle.json", lambda fields: fields.update(default="aotinductor"))
    forge_all(folder, "aotinductor")
    return folder


def _without_onnx(folder: Path) -> None:
    """The bundle names no ONNX any more."""

    def change(fields: Any) -> None:
        fields["shipped"] = [shipped for shipped in fields["shipped"] if shipped["name"] != "onnx"]

    edit(folder / "bundle.json", change)
    forge(folder)


# --- code -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [(), ("--artifact", "aotinductor")], ids=["what the bundle says", "by name"])
def test_code_of_a_bundle_that_nobody_vouches_for_does_not_run(asked: tuple[str, ...], forged: Path) -> None:
    if not asked:
        _without_onnx(forged)
    done = run_check(forged, *asked, "--no-speed")
    assert (done.returncode, done.stderr) == (1, "")
    assert "refused: aotinductor is not loaded: such a file can hold code" in done.stdout
    assert all(flag in done.stdout for flag in ("--key", "--certificate", "--identity", "--digest", "--trust"))
    assert not (forged.parent / "ran").exists()


def test_what_the_bundle_says_does_not_choose_what_is_loaded(forged: Path) -> None:
    assert check(forged)["artifacts"].keys() == {"onnx"}
    assert not (forged.parent / "ran").exists()


def test_without_that_defence_it_runs(forged: Path) -> None:
    """The twin, which is also what --trust and --digest mean."""
    digest = digest_file(forged / "manifest.json")
    for flags in (("--trust",), ("--digest", f"sha256:{digest.upper()}")):
        done = run_check(forged, "--artifact", "aotinductor", "--no-speed", *flags)
        assert (done.returncode, (forged.parent / "ran").exists()) == (1, True), done.stdout + done.stderr
        (forged.parent / "ran").unlink()


def test_a_file_that_is_not_onnx_cannot_pass_as_one(forged: Path) -> None:
    def change(fields: Any) -> None:
        next(one for one in fields["shipped"] if one["name"] == "aotinductor").update(runtime="onnxruntime")

    edit(forged / "bundle.json", change)
    forge(forged)
    with pytest.raises(Refused, match="nor an ONNX file in"):
        check(forged, "aotinductor")


# --- what is left behind ----------------------------------------------------------------------------------------------


def _left(forged: Path) -> psutil.Process | None:
    """The process that the payload started, if it still runs two seconds later: a killed one is not gone at once."""
    try:
        process = psutil.Process(int((forged.parent / "ran").read_text().split()[0]))
        psutil.wait_procs([process], timeout=2)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.NoSuchProcess:
        return None


def test_a_process_that_it_leaves_behind_ends_with_the_check(forged: Path) -> None:
    began_s = time.monotonic()
    with pytest.raises(Refused):
        check(forged, "aotinductor", trusted=True)
    assert time.monotonic() - began_s < 100  # it would hold the streams of its parent for 600 s
    assert _left(forged) is None


def test_without_the_sweep_it_goes_on(forged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin."""
    monkeypatch.setattr(running, "_kill_group", lambda process: process.wait())
    with pytest.raises(Refused):
        check(forged, "aotinductor", trusted=True)
    left = _left(forged)
    assert left is not None
    left.kill()


def test_nothing_stays_among_temporary_files(with_code: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = run_check(with_code, "--artifact", "aotinductor", "--trust", "--no-speed", TMPDIR=str(temporary))
    assert (done.returncode, list(temporary.iterdir())) == (0, []), done.stdout + done.stderr


def test_what_a_killed_check_left_goes_with_the_next(bundle: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-m", "pipeline.verify", bundle], env=environ(TMPDIR=str(temporary)), start_new_session=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while child.poll() is None and not list(temporary.glob("*/in/model.onnx")):
        time.sleep(0.001)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    left = next(temporary.glob(f"{private.PREFIX}*/in/model.onnx")).parents[1]
    private.sweep(temporary)
    assert left.exists()  # too young: another check may be about to lock it
    old_s = time.time() - 3600
    os.utime(left, (old_s, old_s))
    with private.private_folder() as held:
        os.utime(held.parent, (old_s, old_s))
        private.sweep(temporary)
        private.sweep(held.parent.parent)
        assert (left.exists(), held.exists()) == (False, True)
    assert not held.exists()


# --- what was checked is what is loaded -------------------------------------------------------------------------------


@pytest.fixture
def another(bundle: Path, tmp_path: Path) -> Path:
    """Another model in the same names, forged whole."""
    folder = Path(shutil.copytree(bundle, tmp_path / "another"))
    alter_weight(folder, 3.0)
    return folder


def _swap(folder: Path, source: Path) -> None:
    """Put another file in the model's place, by one rename."""
    shutil.copyfile(source / "model.onnx", folder / "incoming")
    os.replace(folder / "incoming", folder / "model.onnx")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digest of each file that was about to be loaded; the run itself, which takes long, is left out."""
    digests: list[str] = []

    def run(folder: Path, bundle: Any, shipped: Mapping[str, Any], bounds: Any) -> dict[str, Any]:
        digests.append(digest_file(folder / shipped["file"]))
        return {"cold_s": 0.1, "peak_bytes": 1}

    monkeypatch.setattr(command, "run_artifact", run)
    return digests


def test_a_file_swapped_after_its_check_is_not_loaded(
    bundle: Path, another: Path, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, real = digest_file(bundle / "model.onnx"), verify_lineage

    def swapped(*arguments: Any) -> str:
        _swap(bundle, another)
        return real(*arguments)

    monkeypatch.setattr(command, "verify_lineage", swapped)
    check(bundle)
    assert loaded == [good]
    assert digest_file(bundle / "model.onnx") != good


def _racing(bundle: Path, another: Path, times: int) -> list[str | None]:
    """How so many checks end while the file is swapped back and forth: refused, or None."""
    whole, stop = Path(shutil.copytree(bundle, bundle.parent / "whole")), threading.Event()

    def swaps() -> None:
        while not stop.is_set():
            for source in (another, whole):
                _swap(bundle, source)

    thread = threading.Thread(target=swaps)
    thread.start()
    ends: list[str | None] = []
    try:
        for _ in range(times):
            try:
                check(bundle)
                ends.append(None)
            except Refused as refusal:
                ends.append(str(refusal))
    finally:
        stop.set()
        thread.join()
    return ends


@pytest.mark.parametrize("times", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_files_swapped_while_it_checks_are_refused_or_not_loaded(
    times: int, bundle: Path, another: Path, loaded: list[str]
) -> None:
    good = digest_file(bundle / "model.onnx")
    ends = _racing(bundle, another, times)
    assert set(loaded) <= {good}
    assert len(loaded) == ends.count(None)
    assert ends.count(None) < times  # the race is one


def test_without_the_private_copy_a_swapped_file_is_loaded(
    bundle: Path, another: Path, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin."""
    good, real, lineage = digest_file(bundle / "model.onnx"), verify_files, verify_lineage

    def in_place(folder: Path, listed: Any, progress: Callable[[int], None], copy: Path) -> None:
        real(folder, listed, progress)
        copy.rmdir()
        copy.symlink_to(folder)

    def swapped(*arguments: Any) -> str:
        _swap(bundle, another)
        return lineage(*arguments)

    monkeypatch.setattr(command, "verify_files", in_place)
    monkeypatch.setattr(command, "verify_lineage", swapped)
    check(bundle)
    assert loaded == [digest_file(another / "model.onnx")] != [good]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--time-limit-s", "inf"), "must lie above 0"),
        (("--time-limit-s", "nan"), "must lie above 0"),
        (("--time-limit-s", "0"), "must lie above 0"),
        (("--memory-limit-mb", "-1"), "must lie above 0"),
        (("--digest", "abc"), "must be 64 hex digits"),
    ],
    ids=str,
)
def test_a_flag_that_means_nothing_is_a_usage_error(flags: tuple[str, ...], word: str, tmp_path: Path) -> None:
    done = run_check(tmp_path, *flags)
    assert (done.returncode, word in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_an_output_that_takes_nothing_is_an_error(tmp_path: Path) -> None:
    start = [sys.executable, "-m", "pipeline.verify", str(tmp_path)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(start, stdout=full, stderr=subprocess.PIPE, env=environ(), check=False, text=True)
    assert (done.returncode, done.stderr) == (2, "error: the findings cannot be written: No space left on device\n")
    closed = subprocess.run(["sh", "-c", f"exec {' '.join(start)} >&-"], env=environ(), check=False, cwd=ROOT)
    assert closed.returncode == 1


def test_names_reach_the_terminal_as_text(bundle: Path) -> None:
    """A name that clears the line and says something else."""
    (bundle / "\x1b[2K\raccepted\n\u202eok\u009b").write_text("")
    done = run_check(bundle)
    assert done.stdout.splitlines() == [
        "refused: \\x1b[2K\\raccepted\\n\\u202eok\\x9b is not in the manifest",
    ]
