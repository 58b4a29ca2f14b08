"""Everything that only a CUDA machine can show, in one call: the tests marked ``gpu``, then the main job on CUDA.

    python -m tests.gpu

Exit code 0 only if both are good. Without CUDA it says so and ends with 2.
"""

from __future__ import annotations

import subprocess
import sys

import torch

from tests.conftest import ROOT, environ


def main() -> int:
    if not torch.cuda.is_available():
        print("torch finds no usable CUDA device here")
        return 2
    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    tests = subprocess.run([sys.executable, "-m", "pytest", "-m", "gpu", "-q"], cwd=ROOT, env=environ(), check=False)
    jobs = [
        subprocess.run(
            [sys.executable, "-m", "pipeline.all", recipe, "--device", "cuda"], cwd=ROOT, env=environ(), check=False
        )
        for recipe in ("seed", "digits")
    ]
    return int(any(done.returncode for done in (tests, *jobs)))


if __name__ == "__main__":
    raise SystemExit(main())
