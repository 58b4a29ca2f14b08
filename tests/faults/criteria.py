"""What others call equal: their own functions and defaults, on the same rows, artifact against eager float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.parity.reference import EAGER, FLOAT64, INPUTS
from bench.parity.store import load_case
from export import registry
from export.arrays import to_numpy
from export.backend import LoadOptions
from tests.faults.planted import Planted
from tests.model_run import ModelRun

Values = np.ndarray[Any, Any]
Criterion = Callable[[Values, Values, Values], bool]
"""``(got, eager, float64)`` of one output, over all rows: whether it is accepted."""


def _allclose(got: Values, eager: Values, wide: Values) -> bool:
    return bool(np.allclose(got, eager))


def _assert_close(got: Values, eager: Values, wide: Values) -> bool:
    try:
        torch.testing.assert_close(torch.from_numpy(got), torch.from_numpy(eager))
    except AssertionError:
        return False
    return True


def _onnx_suite(got: Values, eager: Values, wide: Values) -> bool:
    """rtol 1e-3, atol 1e-7 and NumPy's own function, as ``onnx.backend.test`` has them."""
    try:
        np.testing.assert_allclose(got, eager, rtol=1e-3, atol=1e-7)
    except AssertionError:
        return False
    return bool(got.dtype == eager.dtype)


def _polygraphy(got: Values, eager: Values, wide: Values) -> bool:
    """``CompareFunc.simple``: an element fails only past both 1e-5 absolute and 1e-5 relative; NaN fails."""
    if got.shape != eager.shape:
        return False
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.abs(got.astype(np.float64) - eager)
        relative = apart / np.abs(eager)
    return bool(np.isfinite(got).all() and not ((apart > 1e-5) & (relative > 1e-5)).any())


def _same(got: Values, eager: Values, wide: Values) -> bool:
    """PyTorch's own check of its compilers, with the tolerance that its dashboard uses."""
    from torch._dynamo.utils import same

    reference, answer, truth = (torch.from_numpy(array) for array in (eager, got, wide))
    return bool(same(reference, answer, truth, tol=1e-4, log_error=lambda *_: None))


CRITERIA: dict[str, Criterion] = {
    "np.allclose": _allclose,
    "assert_close": _assert_close,
    "ONNX suite": _onnx_suite,
    "Polygraphy": _polygraphy,
    "same()": _same,
}


def accepted(run: ModelRun, planted: Planted, options: LoadOptions | None = None) -> dict[str, bool]:
    """Who accepts the artifact on all rows; a file that does not load, or refuses them, is accepted by nobody."""
    names = run.signature.output_names
    gathered: dict[str, list[tuple[Values, ...]]] = {name: [] for name in names}
    try:
        runner = registry.load(planted.folder, options or LoadOptions(threads_count=2))
        for index in run.reference.indices("rows"):
            folder = run.reference_folder
            got = runner(load_case(folder / INPUTS, index, [spec.name for spec in run.signature.inputs]))
            eager, wide = (load_case(folder / kind, index, names) for kind in (EAGER, FLOAT64))
            for name in names:
                gathered[name].append((to_numpy(got[name]), eager[name], wide[name]))
    except Exception:  # noqa: BLE001 - a broken file: every criterion's user sees the error
        return dict.fromkeys(CRITERIA, False)
    joined = {name: [np.concatenate(column) for column in zip(*parts, strict=True)] for name, parts in gathered.items()}
    return {word: all(criterion(*arrays) for arrays in joined.values()) for word, criterion in CRITERIA.items()}
