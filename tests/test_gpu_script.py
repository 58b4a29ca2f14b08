"""The script for CUDA machines, on the CPU: it runs, resumes, keeps its limits, and loses no figure."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.gpu import lean_wheel
from tests.gpu.drive import LINES, LOG, RUNS, Plan, drive, latest
from tests.gpu.plan import STEPS, Step
from tests.gpu.step import Context, environ
from tests.measure.gpu_table import render

QUICK = [step.name for step in STEPS if step.quick]


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.gpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ())


def test_the_quick_steps_end_well_on_the_cpu_and_are_not_repeated(tmp_path: Path) -> None:
    out, work = str(tmp_path / "out"), str(tmp_path / "work")
    arguments = ("--device", "cpu", "--only", *QUICK, "--out", out, "--work", work)
    done = script(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "out" / LOG).read_text()
    lines = latest(tmp_path / "out" / LINES)
    assert list(lines) == QUICK
    assert "torch" in lines["facts"]["figures"]["versions"]
    opened = lines["sessions"]["figures"]["sessions"]
    assert {one["model"] for one in opened} == {"mlp", "cnn", "shape chain"}
    assert all(one["relative_error"] < 1e-5 for one in opened)
    assert all(one["tflop_per_s"] > 0 for one in lines["roofline"]["figures"]["products"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [LINES, LOG, RUNS]
    assert "| float32 | 256 |" in render(list(lines.values()), at="0000000")
    again = script(*arguments)
    assert (again.returncode, again.stdout) == (0, "")


def test_the_list_names_every_step_and_an_unknown_one_is_refused() -> None:
    listed = script("--list", "--device", "cuda")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [step.name for step in STEPS]
    refused = script("--only", "fact")
    assert refused.returncode == 1
    assert "got fact" in refused.stderr


def test_every_step_names_a_function_that_is_there() -> None:
    import importlib

    for step in STEPS:
        module, _, name = step.function.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
        assert step.expected_s <= step.limit_s
    known = [step.name for step in STEPS]
    assert all(known.index(other) < known.index(step.name) for step in STEPS for other in step.after)


def library(*entries: tuple[int, int, bytes]) -> bytes:
    """An ELF file with one fat binary of these entries: kind, architecture, code."""
    body = b""
    for kind, architecture, code in entries:
        head = bytearray(64)
        struct.pack_into("<HHIQ", head, 0, kind, 1, len(head), len(code))
        struct.pack_into("<I", head, 28, architecture)
        body += bytes(head) + code
    fat = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body + bytes(8)
    names = b"\0.nv_fatbin\0.shstrtab\0"
    elf = bytearray(64) + fat + names
    heads = [(0, 0, 0), (1, 64, len(fat)), (12, 64 + len(fat), len(names))]
    table = b"".join(struct.pack("<IIQQQQ", name, 1, 0, 0, at, size).ljust(64, b"\0") for name, at, size in heads)
    struct.pack_into("<Q", elf, 40, len(elf))
    struct.pack_into("<HHH", elf, 58, 64, len(heads), 2)
    return bytes(elf) + table


def test_a_lean_library_keeps_what_one_gpu_runs_and_its_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_wheel, "_is_large", lambda data, entry: entry.payload_bytes == 5)
    published = library((2, 80, b"other"), (1, 90, b"text."), (2, 90, b"ours"), (2, 90, b"large"))
    lean = lean_wheel.trimmed(published, 90)
    assert len(lean) == len(published)
    kept = list(lean_wheel._entries(lean))
    assert [(entry.kind, entry.architecture) for entry in kept] == [(2, 80), (1, 90), (2, 90), (2, 120)]
    codes = [lean[entry.at + 64 : entry.at + 64 + entry.payload_bytes] for entry in kept]
    assert codes == [bytes(5), bytes(5), b"ours", bytes(5)]
    with pytest.raises(ValueError, match=r"no section \.nv_fatbin"):
        lean_wheel.trimmed(published.replace(b".nv_fatbin", b".nv_nothing"[:10]), 90)


# Steps for the driver, each resolved by its name in a process of its own.


def good(context: Context) -> None:
    context.put("ratio", float("nan"))
    context.row("table", one=1, two=2.00000004)


def raises(context: Context) -> None:
    context.row("table", one=1)
    with context.attempt("table", one=2) as found:
        found["two"] = 1 / 0
    raise RuntimeError("wrong on purpose")


def hangs(context: Context) -> None:
    context.put("child", subprocess.Popen(["sleep", "600"]).pid)
    print("before it hangs", flush=True)
    time.sleep(600)


def leaves_a_run(context: Context) -> None:
    folder = context.runs / "seed" / "abc"
    (folder / "parity" / "reference").mkdir(parents=True)
    for name in ("recipe.json", "verdict.json", "parity/onnx.json", "parity/reference/inputs.safetensors"):
        (folder / name).write_text("{}")
    (folder.parent / "latest").symlink_to("abc")


def meets(context: Context) -> None:
    """Done only if another one runs at the same time."""
    (context.work / f"here-{os.getpid()}").touch()
    deadline = time.monotonic() + 20
    while len(list(context.work.glob("here-*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def step(function: str, *, name: str | None = None, **more: Any) -> Step:
    settings: dict[str, Any] = {"expected_s": 1, "limit_s": 60} | more
    return Step(name=name or function, function=f"tests.test_gpu_script:{function}", about="A step", **settings)


def ends(process: int) -> bool:
    """Whether a process is gone, or is in a moment: it was killed, its parent need not have noticed yet."""
    deadline = time.monotonic() + 5
    while psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def run(tmp_path: Path, *steps: Step, budget_s: float = 100) -> tuple[int, dict[str, dict[str, Any]]]:
    out = tmp_path / "out"
    plan = Plan(steps=steps, device="cpu", out=out, work=tmp_path / "work", budget_s=budget_s, beside_count=2)
    return drive(plan), latest(out / LINES)


def test_a_step_that_fails_keeps_its_figures_and_stops_no_other(tmp_path: Path) -> None:
    code, lines = run(tmp_path, step("raises"), step("good"))
    assert code == 1
    assert (lines["raises"]["status"], lines["good"]["status"]) == ("failed", "done")
    assert "wrong on purpose" in lines["raises"]["reason"]
    assert lines["raises"]["figures"]["table"] == [
        {"one": 1},
        {"one": 2, "error": "ZeroDivisionError: division by zero"},
    ]
    assert lines["good"]["figures"] == {"ratio": "nan", "table": [{"one": 1, "two": 2.0}]}
    assert "ZeroDivisionError" in (tmp_path / "out" / LOG).read_text()


def test_a_step_that_hangs_is_killed_with_its_children_after_its_limit(tmp_path: Path) -> None:
    started = time.monotonic()
    code, lines = run(tmp_path, step("hangs", limit_s=5))
    assert time.monotonic() - started < 30
    assert (code, lines["hangs"]["status"]) == (1, "timeout")
    assert "before it hangs" in (tmp_path / "out" / LOG).read_text()
    assert ends(lines["hangs"]["figures"]["child"])


def test_what_no_longer_fits_the_budget_is_skipped_and_done_the_next_time(tmp_path: Path) -> None:
    code, lines = run(tmp_path, step("good", expected_s=200), budget_s=50)
    assert (code, lines["good"]["status"]) == (1, "skipped")
    code, lines = run(tmp_path, step("good", expected_s=200), budget_s=300)
    assert (code, lines["good"]["status"]) == (0, "done")


def test_steps_that_measure_no_time_run_side_by_side_and_others_alone(tmp_path: Path) -> None:
    code, lines = run(
        tmp_path, step("meets", alone=False), step("meets", name="too", alone=False), step("good", after=("meets",))
    )
    assert code == 0, lines


def test_the_records_of_runs_are_brought_back_without_tensors(tmp_path: Path) -> None:
    run(tmp_path, step("leaves_a_run"))
    with tarfile.open(tmp_path / "out" / RUNS) as archive:
        names = archive.getnames()
    assert names == [f"runs/seed/abc/{name}" for name in ("parity/onnx.json", "recipe.json", "verdict.json")]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_driver_that_is_stopped_leaves_no_step_running(tmp_path: Path) -> None:
    code = "import tests.test_gpu_script as t, pathlib, sys; t.run(pathlib.Path(sys.argv[1]), t.step('hangs'))"
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environ())
    figures = tmp_path / "work" / "steps" / "hangs.jsonl"
    deadline = time.monotonic() + 30
    while not (figures.exists() and figures.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = json.loads(figures.read_text())["value"]
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(30) == 128 + signal.SIGTERM
    assert ends(child)
