"""From nothing to the first answer, in a fresh process: import, verify, load, one call.

The files lie in the page cache, as they do on a host that restarts a service. Nothing about speed is asserted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import Bench

_FIRST_ANSWER = """
import json, sys
from pathlib import Path
from export.registry import LoadOptions, load
runner = load(Path(sys.argv[1]), LoadOptions(device=sys.argv[2]))
outputs = runner(runner.signature.example(runner.signature.sizes_at(1), seed=0))
print(json.dumps({name: list(output.shape) for name, output in outputs.items()}))
"""


def test_cold_start(bench: Bench, benchmark: BenchmarkFixture) -> None:
    command = [sys.executable, "-c", _FIRST_ANSWER, str(bench.folder), bench.artifact.device]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def start() -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

    benchmark.group = "cold start"
    answer = benchmark.pedantic(start, rounds=3, iterations=1)  # type: ignore[no-untyped-call]
    assert list(json.loads(answer)) == list(bench.artifact.signature.output_names)
