"""Shipping: only what is good, switched by one rename, and back; signed, and lowered for an older runtime."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from bench.verdict.judge import Verdict
from export import registry
from export.record import read, write
from export.registry import STANDARD
from pipeline.bundle import releases
from tests.conftest import ROOT, SHORT, environ, pipeline
from tests.pipeline.bundles import run_check


def ship(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``python -m pipeline.ship`` as a person starts it."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline.ship", *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environ(), cwd=ROOT,
    )  # fmt: skip


def answers(serving: Path) -> list[float]:
    """What a server answers that opens the current model anew."""
    session = onnxruntime.InferenceSession(str(serving / "current" / "model.onnx"), providers=["CPUExecutionProvider"])
    (probability,) = session.run(None, {"x": np.ones((1, 2), np.float32)})
    return [float(probability[0, 0])]


def test_a_run_ships_as_the_next_version_and_goes_back(built: Path, tmp_path: Path) -> None:
    serving = tmp_path / "serving"
    for version in (1, 2, 3):
        done = ship(built, "--to", serving, "--keep", "2", "--storage-uri", f"s3://models/{version}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1].split()[-2:] == ["version", str(version)]
    assert releases.versions(serving) == [2, 3]
    assert run_check(serving / "current", "--no-speed").returncode == 0
    assert ship("--to", serving, "--rollback").returncode == 0
    assert releases.current(serving) == 2
    nothing = ship("--to", serving, "--rollback")
    assert (nothing.returncode, "no version before 2" in nothing.stderr) == (2, True)
    assert ship("--to", serving, "--rollback", "--version", "3").returncode == 0
    (serving / "2" / "model.onnx").write_bytes(b"broken")
    refused = ship("--to", serving, "--rollback")
    assert (refused.returncode, releases.current(serving)) == (1, 3)
    assert "version 2 is not whole, the current one stays: model.onnx has 6 bytes" in refused.stdout


def test_the_same_run_shipped_again_is_no_new_version_while_the_current_one_is_whole(
    built: Path, tmp_path: Path
) -> None:
    serving = tmp_path / "serving"
    assert ship(built, "--to", serving).returncode == 0
    again = ship(built, "--to", serving)
    assert (again.returncode, releases.versions(serving)) == (0, [1])
    assert again.stdout == f"shipped     {serving / 'current'} is version 1 already: nothing has changed\n"
    (serving / "1" / "model.onnx").write_bytes(b"broken")
    assert ship(built, "--to", serving, "--quiet").returncode == 0
    assert releases.current(serving) == 2


def test_a_verdict_that_is_not_good_does_not_ship(built: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(built, tmp_path / "run"))
    verdict = read(Verdict, run / "verdict.json")
    write(run / "verdict.json", replace(verdict, good=False, reasons=("onnx is required and failed",)))
    done = ship(run, "--to", tmp_path / "serving")
    assert done.returncode == 1
    assert "not good: onnx is required and failed" in done.stdout
    assert not (tmp_path / "serving").exists()
    assert "force" not in ship("--help").stdout


@pytest.mark.slow
def test_a_recipe_without_a_run_is_run_first(tmp_path: Path) -> None:
    done = ship(ROOT / "tests" / "recipes" / "tiny.py", "--to", tmp_path / "serving", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert releases.versions(tmp_path / "serving") == [1]
    again = ship(ROOT / "tests" / "recipes" / "tiny.py", "--to", tmp_path / "serving", "--out", tmp_path / "out")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "capture" not in again.stdout
    assert releases.versions(tmp_path / "serving") == [1]  # what it is made of lies there already


def test_what_changed_since_it_was_judged_does_not_ship(built: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(built, tmp_path / "run"))
    model = run / "artifacts" / "onnx" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[-9] ^= 1
    model.unlink()  # a hard link to the shared run's
    model.write_bytes(data)
    done = ship(run, "--to", tmp_path / "serving")
    assert done.returncode == 2
    assert "is not the file that was recorded" in done.stderr
    assert releases.versions(tmp_path / "serving") == []


def test_an_artifact_that_may_not_ship_is_named(built: Path, tmp_path: Path) -> None:
    done = ship(built, "--to", tmp_path, "--also", "eager")
    assert (done.returncode, "'eager' may not ship; torchscript" in done.stderr) == (2, True)


def source_free(*, standard: bool) -> list[str]:
    """Those of the shared run, or the others that can be built here."""
    return [
        name
        for name in registry.names()
        if registry.get(name).source_free
        and (name in STANDARD) is standard
        and registry.get(name).unavailable("cpu") is None
    ]


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every source-free backend that the shared one lacks."""
    out = tmp_path_factory.mktemp("others")
    arguments = ("--backends", "eager", *source_free(standard=False), "--required", "onnx-legacy")
    done = pipeline("seed", *SHORT, "--bench.cold-starts-count", "0", *arguments, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return (out / "seed" / "latest").resolve()


@pytest.mark.slow
@pytest.mark.parametrize("standard", [True, False], ids=["standard", "others"])
def test_every_source_free_backend_is_bundled_checked_and_served(
    standard: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Path = request.getfixturevalue("built" if standard else "others")
    rows = {row.name: row for row in read(Verdict, run / "verdict.json").rows}
    also = [  # whether int8 keeps enough of the model is for the machine to say: without VNNI its sums saturate
        name for name in source_free(standard=standard) if rows[name].shippable or registry.get(name).precision is None
    ]
    assert also
    done = ship(run, "--to", tmp_path / "serving", "--also", *also)
    assert done.returncode == 0, done.stdout + done.stderr
    bundle = tmp_path / "serving" / "current"
    shipped = {one["name"]: one for one in json.loads((bundle / "bundle.json").read_bytes())["shipped"]}
    assert shipped.keys() == set(also)
    checked = run_check(bundle, *(flag for name in also for flag in ("--artifact", name)), "--trust", "--no-speed")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("golden calls") == len(also)
    for name in also:  # what serves it is its own runtime, or a server's form of it
        assert registry.get(name).runtime.partition("-")[0] in shipped[name]["needs"]
    forms = {registry.get(name).serving_form for name in also}
    assert (bundle / "serving" / "triton" / "seed" / "1" / "model.onnx").exists() is ("onnx" in forms)
    assert (bundle / "serving" / "triton-aoti" / "seed" / "1" / "model.pt2").exists() is ("torch_aoti" in forms)
    if "aotinductor" in also:
        if _is_installed():
            alone = run_check(bundle, "--artifact", "torchscript", "--trust", "--no-speed", alone=True)
            assert alone.returncode == 0, alone.stdout + alone.stderr
        assert shipped["aotinductor"]["needs"].keys() >= {"torch", "system", "machine", "cpu_isa"}
        assert shipped["torchscript"]["needs"]["torch"].startswith(">=")


def _is_installed() -> bool:
    """Whether Python finds this very Torchstone without PYTHONPATH, as the archive's child has to."""
    command = [sys.executable, "-I", "-c", "import export; print(export.__file__)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) == ROOT / "export" / "__init__.py"


# Pauses a real ``pipeline.ship`` before its n-th change of a name in the serving folder, until it is killed.
_PAUSED = """
import os, sys, time
marker, at = sys.argv[1], int(sys.argv[2])
seen = 0
def paused(real):
    def call(*arguments, **named):
        global seen
        if "serving" in str(arguments[-1]) and "golden" not in str(arguments[-1]):
            seen += 1
            if seen == at:
                open(marker, "w").close()
                time.sleep(600)
        return real(*arguments, **named)
    return call
for name in ("rename", "replace", "symlink", "mkdir", "fsync"):
    setattr(os, name, paused(getattr(os, name)))
sys.argv[1:] = sys.argv[3:]
from pipeline.cli import end
from pipeline.commands.ship import main
raise SystemExit(end(main))
"""


def _changes_count(built: Path, serving: Path, base: Path) -> int:
    """How many there are, by never pausing."""
    script = _PAUSED.replace("if seen == at:", "open(marker, 'w').write(str(seen))\n            if False:")
    done = subprocess.run(
        [sys.executable, "-c", script, str(base / "count"), "0", str(built), "--to", str(serving), "--quiet",
         "--storage-uri", "s3://models/next"],
        env=environ(), cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int((base / "count").read_text())


@pytest.mark.slow
def test_killed_at_each_step_the_old_version_serves_and_the_next_try_ships(built: Path, tmp_path: Path) -> None:
    """The last steps are the renames; before them everything happens in a hidden folder."""
    serving = tmp_path / "serving"
    assert ship(built, "--to", serving, "--quiet").returncode == 0
    count = _changes_count(built, Path(shutil.copytree(serving, tmp_path / "serving2", symlinks=True)), tmp_path)
    assert count >= 4
    before = answers(serving)
    for step in (1, *range(count - 3, count + 1)):
        marker = tmp_path / f"reached.{step}"
        child = subprocess.Popen(
            [sys.executable, "-c", _PAUSED, str(marker), str(step), str(built), "--to", str(serving), "--quiet",
             "--storage-uri", f"s3://models/{step}"],
            env=environ(), cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        until = time.monotonic() + 120
        while not marker.exists() and child.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        assert marker.exists()
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert run_check(serving / "current", "--no-speed").returncode == 0
        assert answers(serving) == before
    versions = releases.versions(serving)
    assert ship(built, "--to", serving, "--quiet", "--storage-uri", "s3://models/last").returncode == 0
    assert releases.current(serving) == versions[-1] + 1
    assert not list(serving.glob(".incoming*"))


def test_a_full_disk_leaves_no_half_of_a_bundle(built: Path, small_disk: Path) -> None:
    done = ship(built, "--to", small_disk)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in small_disk.iterdir()] == [".lock"]


def test_two_at_once_do_not_meet(built: Path, tmp_path: Path) -> None:
    with releases.opened(tmp_path / "serving"):
        done = ship(built, "--to", tmp_path / "serving")
    assert (done.returncode, "another process ships into" in done.stderr) == (2, True)


# --- signed -----------------------------------------------------------------------------------------------------------


def _key(folder: Path, name: str) -> tuple[Path, Path]:
    """A fresh private key and its public one, by openssl."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    for arguments in (
        ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private],
        ["ec", "-in", private, "-pubout", "-out", public],
    ):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
    return private, public


@pytest.mark.extra
def test_a_signed_bundle_is_accepted_by_its_key_alone(built: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="extra: pip install 'torchstone[signing]'", exc_type=ImportError)
    (private, public), (_, stranger) = _key(tmp_path, "own"), _key(tmp_path, "stranger")
    serving = tmp_path / "serving"
    done = ship(built, "--to", serving, "--key", private)
    assert done.returncode == 0, done.stdout + done.stderr
    bundle = serving / "1"
    good = run_check(bundle, "--key", public, "--no-speed")
    assert good.returncode == 0, good.stdout + good.stderr
    assert f"signature   holds, by {public}" in good.stdout
    tool = Path(sys.executable).with_name("model_signing")  # the very tool of those who wrote the format
    signature = ["--signature", str(bundle / "model.sig"), "--public_key", str(public)]
    subprocess.run([tool, "verify", "key", str(bundle), *signature], check=True, capture_output=True)
    assert "signed, not checked" in run_check(bundle, "--no-speed").stdout
    wrong = run_check(bundle, "--key", stranger, "--no-speed")
    assert wrong.returncode == 1
    assert "the signature does not hold" in wrong.stdout
    from tests.pipeline.bundles import forge

    (bundle / "README.md").write_text("forged")
    kept = (bundle / "model.sig").read_bytes()
    (bundle / "model.sig").unlink()
    forge(bundle)
    (bundle / "model.sig").write_bytes(kept)
    assert run_check(bundle, "--no-speed").returncode == 0  # hashes alone cannot know
    assert run_check(bundle, "--key", public, "--no-speed").returncode == 1
    (bundle / "model.sig").write_bytes(b"{}")
    assert run_check(bundle, "--key", public, "--no-speed").returncode == 1
    (bundle / "model.sig").unlink()
    assert "a signature is asked for" in run_check(bundle, "--key", public, "--no-speed").stdout


@pytest.mark.extra
def test_a_certificate_signs_for_its_chain(built: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="extra: pip install 'torchstone[signing]'", exc_type=ImportError)
    authority, root = tmp_path / "ca.pem", tmp_path / "ca.crt"
    private, request, certificate = tmp_path / "leaf.pem", tmp_path / "leaf.csr", tmp_path / "leaf.crt"
    extensions = tmp_path / "extensions"
    extensions.write_text(
        "keyUsage=critical,digitalSignature\nextendedKeyUsage=codeSigning\nbasicConstraints=CA:FALSE\n"
    )
    for arguments in (
        ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", authority],
        ["req", "-x509", "-new", "-key", authority, "-days", "30", "-subj", "/CN=root", "-out", root],
        ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private],
        ["req", "-new", "-key", private, "-subj", "/CN=signer", "-out", request],
        ["x509", "-req", "-in", request, "-CA", root, "-CAkey", authority, "-days", "30", "-CAcreateserial",
         "-extfile", extensions, "-out", certificate],
    ):  # fmt: skip
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
    signed = ship(built, "--to", tmp_path / "serving", "--key", private, "--certificate", certificate, "--chain", root)
    assert signed.returncode == 0, signed.stdout + signed.stderr
    good = run_check(tmp_path / "serving" / "1", "--certificate", root, "--no-speed")
    assert good.returncode == 0, good.stdout + good.stderr


def test_without_the_extra_signing_names_it(built: Path, tmp_path: Path) -> None:
    (tmp_path / "model_signing").mkdir()
    (tmp_path / "model_signing" / "__init__.py").write_text("raise ImportError('not here')")
    private, _ = _key(tmp_path, "own")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.ship", str(built), "--to", str(tmp_path / "serving"), "--key", str(private)],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environ(PYTHONPATH=f"{tmp_path}:{ROOT}"),
    )  # fmt: skip
    assert (done.returncode, f"pip install '{ROOT}[signing]'" in done.stderr) == (2, True)
    assert releases.versions(tmp_path / "serving") == []


# --- lowered ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.17.3", "1.15.1"])
def test_a_bundle_for_an_older_runtime_is_lowered_and_accepted_in_it(version: str, built: Path, tmp_path: Path) -> None:
    done = ship(built, "--to", tmp_path / "serving", "--target-ort", version)
    if "cannot be installed here" in done.stderr:
        pytest.skip(f"onnxruntime {version} cannot be installed here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"onnxruntime {version} accepts it, lowered to opset" in done.stdout
    fields = json.loads((tmp_path / "serving" / "1" / "bundle.json").read_bytes())
    (shipped,) = fields["shipped"]
    assert fields["target_ort"] == version
    assert shipped["lowered_from"] != shipped["artifact_sha256"]
    assert int(shipped["needs"]["ir_version"]) <= 9


def test_a_version_that_is_not_there_is_named(built: Path, tmp_path: Path) -> None:
    done = ship(built, "--to", tmp_path / "serving", "--target-ort", "0.0.1")
    assert (done.returncode, "onnxruntime 0.0.1 cannot be installed here" in done.stderr) == (2, True)
