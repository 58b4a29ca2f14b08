"""Why Inductor is set as it is: build time and call time of the default recipe's program under each choice.

    python -m tests.measure.compiled.inductor_settings RUN [--write docs/measured/inductor.md]

Each build runs in a fresh process with an empty cache; latencies are taken interleaved, in one process.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from export.device import HOST
from export.environment import environment
from export.task import J, R, Task, task
from export.worker import Failed, Workspace
from tests.measure.speed import commit

CHOICES: dict[str, dict[str, Any]] = {
    "PyTorch's defaults": {"settings": {}, "isa": "prove"},
    "no precompiled headers": {"settings": {"aot_inductor.precompile_headers": False}, "isa": "prove"},
    "and instruction sets not proved by compiling": {
        "settings": {"aot_inductor.precompile_headers": False},
        "isa": "trust",
    },
    "and the wrapper at O0": {
        "settings": {"aot_inductor.precompile_headers": False, "aot_inductor.compile_wrapper_opt_level": "O0"},
        "isa": "trust",
    },
}


@task
def build(payload: dict[str, Any]) -> float:
    """Compile one package; seconds that the compilation took."""
    import torch._inductor
    from torch._inductor import config

    from export.program import load_exported, quiet

    program = load_exported(Path(payload["program"]))
    with tempfile.TemporaryDirectory() as cache, quiet():
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        if payload["isa"] == "trust":
            config.cpp.vec_isa_ok = True
        started = time.monotonic()
        torch._inductor.aoti_compile_and_package(
            program, package_path=payload["package"], inductor_configs=payload["settings"]
        )
        return time.monotonic() - started


@task
def compiles_after_loading(payload: dict[str, Any]) -> int:
    """How often the C++ compiler compiles something in a process that loads PyTorch's own cache artifacts."""
    import torch

    from export.exporters.inductor import prepare
    from export.program import flat_call, load_exported, quiet

    prepare(Path(payload["cache"]))
    compilations = []
    popen = subprocess.Popen.__init__

    def spy(self: Any, *args: Any, **kwargs: Any) -> None:
        command = str(args[0] if args else kwargs.get("args"))
        if "-shared" in command and ".main.cpp" in command:
            compilations.append(command)
        popen(self, *args, **kwargs)

    subprocess.Popen.__init__ = spy  # type: ignore[method-assign]
    if payload["load"]:
        torch.compiler.load_cache_artifacts(Path(payload["file"]).read_bytes())
    compiled = torch.compile(flat_call(load_exported(Path(payload["program"]))), fullgraph=True, dynamic=True)
    with torch.inference_mode(), quiet():
        for rows in (3, 1):
            compiled(torch.zeros(rows, 2))
    if not payload["load"]:
        saved = torch.compiler.save_cache_artifacts()
        assert saved is not None
        Path(payload["file"]).write_bytes(saved[0])
    return len(compilations)


def latencies_us(packages: dict[str, Path]) -> dict[str, float]:
    """Median microseconds per call at one row, over interleaved blocks of 500 calls."""
    import torch

    from export.backends.aotinductor import open_package

    torch.set_num_threads(1)
    calls = {name: open_package(path, HOST) for name, path in packages.items()}
    blocks: dict[str, list[float]] = {name: [] for name in calls}
    row = torch.zeros(1, 2)
    with torch.inference_mode():
        for _ in range(40):
            for name in random.sample(list(calls), len(calls)):
                started = time.perf_counter()  # noqa: TID251 - compares settings, is no product figure
                for _ in range(500):
                    calls[name]([row])
                blocks[name].append((time.perf_counter() - started) / 500)  # noqa: TID251
    return {name: statistics.median(times) * 1e6 for name, times in blocks.items()}


def _run(workspace: Workspace, task: Task[J, R], job: J, name: str) -> R:
    end = workspace.run(task, job, name)
    if isinstance(end, Failed):
        raise RuntimeError(end.summary)
    return end.result


def main(arguments: list[str]) -> int:
    program = Path(arguments[0]).resolve() / "program" / "program.pt2"
    with tempfile.TemporaryDirectory() as base:
        workspace = Workspace(folder=Path(base) / "log")
        packages, seconds = {}, {}
        for index, (name, choice) in enumerate(CHOICES.items()):
            packages[name] = Path(base) / f"{index}.pt2"
            payload = {"program": str(program), "package": str(packages[name]), **choice}
            seconds[name] = _run(workspace, build, payload, f"b{index}")
        times = latencies_us(packages)
        counts = []
        for load in (False, True):
            payload = {
                "program": str(program),
                "cache": f"{base}/c{load}",
                "file": f"{base}/artifacts.bin",
                "load": load,
            }
            counts.append(_run(workspace, compiles_after_loading, payload, f"c{load}"))
    lines = ["| AOTInductor, each line with those above it | build (s) | call of one row (us) |", "|---|---|---|"]
    lines += [f"| {name} | {seconds[name]:.1f} | {times[name]:.2f} |" for name in CHOICES]
    lines += [
        "",
        f"`torch.compile` from nothing compiled {counts[0]} C++ kernels; a fresh process that loaded PyTorch's own",
    ]
    lines += [f"cache artifacts (`torch.compiler.load_cache_artifacts`) compiled {counts[1]} of them again."]
    machine = environment().machine
    script = "python -m tests.measure.compiled.inductor_settings"
    where = f"`{script}` at {commit()}, {machine.cores_count} cores of {machine.cpu}."
    text = "\n".join(["# Inductor's settings", "", where, "", *lines, ""])
    print(text)
    if arguments[1:2] == ["--write"]:
        Path(arguments[2]).write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
