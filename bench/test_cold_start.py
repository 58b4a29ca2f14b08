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
from bench.timing.inputs import first_call
from export.registry import LoadOptions, load
runner = load(Path(sys.argv[1]), LoadOptions(device=sys.argv[2]))
outputs = runner(first_call(runner.signature, sys.argv[3] or None, 1))
print(json.dumps({name: list(output.shape) for name, output in outputs.items()}))
"""


def test_cold_start(bench: Bench, benchmark: BenchmarkFixture) -> None:
    command = [sys.executable, "-c", _FIRST_ANSWER, str(bench.folder), bench.artifact.device, str(bench.samples or "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def start() -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

    benchmark.group = "cold start"
    answer = benchmark.pedantic(start, rounds=3, iterations=1)  # type: ignore[no-untyped-call]
    assert list(json.loads(answer)) == list(bench.artifact.signature.output_names)
