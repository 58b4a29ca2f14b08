"""What a run prints: whole words on a terminal, a line each elsewhere, and a sign of life from what lasts."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import pytest

from pipeline.console import Console
from tests.conftest import environ

SENTENCE = "the onnxruntime backend is not installed here, so: pip install 'torchstone[openvino]' " * 3


def on_terminal(code: str, **environment: str) -> str:
    """What a Python program writes to a terminal."""
    leader, follower = pty.openpty()
    done = subprocess.run([sys.executable, "-c", code], stdout=follower, env=environ(**environment), check=True)
    os.close(follower)
    written = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:
            break
        if not chunk:
            break
        written += chunk
    assert done.returncode == 0
    return written.decode().replace("\r\n", "\n")


def code(call: str) -> str:
    return f"from pipeline.console import Console\nconsole = Console()\n{call}\n"


@pytest.mark.parametrize("call", ["prose", "stage"])
def test_a_terminal_of_80_columns_cuts_no_word(call: str) -> None:
    arguments = ("build", SENTENCE) if call == "stage" else (SENTENCE,)
    shown = on_terminal(code(f"console.{call}(*{arguments!r})"), COLUMNS="80", NO_COLOR="1", TERM="dumb")
    lines = shown.splitlines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 80
    assert {*shown.split()} == {*" ".join(arguments).split()}


def test_without_a_terminal_a_sentence_is_a_line_and_brackets_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.prose(SENTENCE)
    console.stage("check", SENTENCE)
    console.say(SENTENCE)
    assert capsys.readouterr().out == f"{SENTENCE}\ncheck    {SENTENCE}\n{SENTENCE}\n"


def test_what_lasts_says_what_is_running_and_nothing_after_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(beat_s=0.02)
    with console.bar("build", 3, lambda: ["onnx", "compile"]) as advance:
        advance(1)
        time.sleep(0.2)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "build    1 of 3 done; running for 0 min: onnx, compile"
    time.sleep(0.1)
    assert capsys.readouterr().out == ""


def test_what_is_soon_done_prints_nothing_more(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().bar("capture"):
        pass
    assert capsys.readouterr().out == ""


def test_a_quiet_console_has_no_beats(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(quiet=True, beat_s=0.01).bar("build", 3):
        time.sleep(0.1)
    assert capsys.readouterr().out == ""


def test_no_colour_reaches_a_terminal_that_wants_none() -> None:
    shown = on_terminal(code("console.stage('build', 'onnx')"), COLUMNS="80", TERM="xterm-256color", NO_COLOR="1")
    assert "\x1b[1;36m" not in shown
    assert "build" in shown
    assert "\x1b[1;36m" in on_terminal(code("console.stage('build', 'onnx')"), COLUMNS="80", TERM="xterm-256color")
