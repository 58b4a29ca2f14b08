"""The golden calls of a bundle, as plain ``.npy``: NumPy alone reads them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.parity.golden import golden
from bench.parity.levels.undetermined import CaseSpread
from bench.parity.reference import Reference
from bench.parity.spec import Thresholds
from bench.run_folder import RunFolder
from export.files import verify_files
from export.record import read
from export.signature import Signature
from pipeline.bundle.record import GoldenCall, GoldenOutput


def write_golden(
    run: RunFolder, folder: Path, signature: Signature, limits: Thresholds, spreads: Sequence[CaseSpread]
) -> Iterator[GoldenCall]:
    """Each golden call as ``golden/<number>/<inputs|expected|allowed>/<tensor>.npy``."""
    source = run.reference
    reference = read(Reference, run.reference_record)
    verify_files(source, reference.files)
    for number, call in enumerate(golden(reference, source, signature, limits, spreads)):
        kinds = {"inputs": call.inputs, "expected": call.expected, "allowed": call.allowed}
        paths: dict[str, dict[str, str]] = {kind: {} for kind in kinds}
        for kind, tensors in kinds.items():
            for (name, array), stem in zip(tensors.items(), _file_names(tensors), strict=True):
                path = f"golden/{number:02d}/{kind}/{stem}.npy"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(_npy(array))
                paths[kind][name] = path
        yield GoldenCall(
            name=call.case.name,
            sizes=dict(call.case.sizes),
            real=call.real,
            inputs=paths["inputs"],
            outputs={
                name: GoldenOutput(expected=paths["expected"][name], allowed=paths["allowed"][name], dtype=dtype)
                for name, dtype in call.dtypes.items()
            },
        )


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    """As ``.npy``; through memory, since NumPy's own writing of files does not say that a disk is full."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _file_names(names: Iterable[str]) -> list[str]:
    """A name for the file of each tensor: its own, unless a file system may take it for another (``x``, ``X``)."""
    chosen: list[str] = []
    for index, name in enumerate(names):
        taken = {other.casefold() for other in chosen}
        chosen.append(name if name.casefold() not in taken else f"{name}.{index}")
    return chosen
