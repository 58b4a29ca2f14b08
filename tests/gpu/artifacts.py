"""Artifacts loaded where nothing else has run: what they answer, how wrong that is, and what they say of themselves."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.gpu import adapter
from tests.gpu.step import Context, plain, python

_ROWS = (1, 7, 32, 1024)
_MARK = "fresh: "


def fresh(context: Context) -> None:
    """A line for each artifact of both recipes."""
    for recipe in ("seed", "digits"):
        run = context.run_folder(recipe)
        for name, folder in adapter.artifacts(run).items() if run else ():
            if name == "eager":
                continue  # needs the model's source: no artifact that ships
            with context.attempt("artifacts", recipe=recipe, artifact=name) as found:
                answers = context.work / f"fresh-{recipe}-{name}.npz"
                done = python("-m", "tests.gpu.artifacts", str(folder), context.device, str(answers))
                said = [line for line in done.lines if line.startswith(_MARK)]
                if not said:
                    raise RuntimeError(done.cause)
                assert run is not None
                found.update(json.loads(said[0].removeprefix(_MARK)))
                found["relative_error"] = _error(recipe, run, answers)


def _error(recipe: str, run: Path, answers: Path) -> float:
    """The largest of all batches and outputs, against the model in float64 on the CPU."""
    module = adapter.trained_module(recipe, run).double()
    errors = []
    with np.load(answers) as kept, torch.inference_mode():
        for rows in _ROWS:
            outputs = module(torch.from_numpy(kept[f"in-{rows}"]).double())
            for index, output in enumerate(outputs if isinstance(outputs, tuple) else (outputs,)):
                expected = output.numpy()
                errors.append(np.linalg.norm(kept[f"out-{rows}-{index}"] - expected) / np.linalg.norm(expected))
    return float(max(errors))


def _load(folder: Path, device: str, answers: Path) -> None:
    """The child: load, answer every batch from NumPy, leave the answers."""
    started = time.monotonic()
    runner = adapter.load(folder, device)
    loaded = time.monotonic()
    kept: dict[str, Any] = {}
    for rows in _ROWS:
        inputs = adapter.example(runner, rows)
        (kept[f"in-{rows}"],) = inputs.values()
        for index, output in enumerate(runner(inputs).values()):
            kept[f"out-{rows}-{index}"] = np.asarray(output)
    witness = runner.witness()
    np.savez(answers, **kept)
    found = {
        "load_s": loaded - started,
        "answers_s": time.monotonic() - loaded,
        "device": witness.device,
        "fallback": witness.fallback,
        "evidence": witness.evidence,
    }
    print(_MARK + json.dumps(plain(found)), flush=True)


if __name__ == "__main__":
    _load(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
