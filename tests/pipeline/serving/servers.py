"""A server as a person starts it: a real process, on a free port."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, environ
from tests.oip.client import Client

KEY = "a-key-of-more-than-16-characters"


@dataclass
class Started:
    """A server that is ready, and what it has said on standard error so far."""

    process: subprocess.Popen[str]
    url: str
    model: str
    log: list[str] = field(default_factory=list)

    def client(self, **headers: str) -> Client:
        """A connection of its own."""
        return Client(self.url, self.model, headers)

    def leave(self) -> int:
        """SIGTERM, as an orchestrator sends it; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def events(self) -> list[dict[str, Any]]:
        """The log."""
        return [json.loads(line) for line in self.log]


@contextlib.contextmanager
def serving(*arguments: str | Path) -> Iterator[Started]:
    """``torchstone serve`` on a free port; what is left of it at the end is killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "torchstone", "serve", *map(str, arguments), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environ(),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    log: list[str] = []
    stderr = process.stderr
    reader = threading.Thread(target=lambda: log.extend(stderr), daemon=True)
    reader.start()
    try:
        line = process.stdout.readline()
        match = re.fullmatch(r"serving (\S+) \S+ on (http://\S+)\n", line)
        if match is None:
            process.wait(60)
            reader.join(10)
        assert match is not None, (line, log)
        yield Started(process, match[2], match[1], log)
    finally:
        process.kill()
        process.wait()
        reader.join(10)
