"""A bundle that was verified here and now, its artifact loaded with the options that it passed parity with."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from export.errors import ContractError
from export.record import from_json
from export.signature import Signature, SizeRange
from export.sizes import size_of
from export.tensor import TensorSpec
from pipeline.serving.protocol.refusal import Refusal, invalid
from pipeline.verifier.artifacts import OnnxArtifact, TorchstoneArtifact
from pipeline.verifier.contents import read_bundle
from pipeline.verifier.files import MANIFEST, read_manifest
from pipeline.verifier.outcome import read_regular
from pipeline.verifier.speed import first_rows
from pipeline.verifier.verify import Request, verified

_LOOPS = frozenset({"Loop", "Scan"})
_QUICK_S = 1e-3
"""A call that takes less is done where requests are read: to hand it to a thread costs about as much."""
_TIMED_COUNT = 5
_JOINED_ROWS = 256
"""The most rows of several requests in one call: by then what a call costs whatever its rows is a small part."""
_KNOWN_SHAPES = 256
Admit = Callable[[str, int | None], None]
"""Hears a model's name and torch's threads before it is loaded; raises ``Refused`` if it cannot be beside others."""


class Model:
    """One version of a model that can be asked.

    ``close()`` frees it, once nothing is asked of it any more.
    """

    def __init__(
        self, folder: Path, bundle: Mapping[str, Any], findings: Mapping[str, Any], version: str, admit: Admit
    ) -> None:
        """Load the artifact that was run by the check, and warm it up with the golden calls.

        ``folder`` is the private copy that the check made.
        """
        artifact_name = next(iter(findings["artifacts"]))
        shipped = next(shipped for shipped in bundle["shipped"] if shipped["name"] == artifact_name)
        self.torch_threads: int | None = shipped["options"]["threads_count"] if shipped["runtime"] == "torch" else None
        """torch's threads, of which a process has one number; None where another runtime answers."""
        admit(bundle["name"], self.torch_threads)
        self.name: str = bundle["name"]
        self.version = version
        self.shipped: Mapping[str, Any] = shipped
        self.findings = findings
        self.signature = _tested(from_json(Signature, bundle["signature"], "the signature"), shipped["tested_sizes"])
        self.batch: str | None = bundle["batch"]
        self.joins = self._joins(rows_together=bundle.get("rows_together", False))
        self.most_rows = min(self.signature.ranges[self.batch].max, _JOINED_ROWS) if self.batch and self.joins else 1
        self.most_marks = most_marks(self.signature)
        kind = OnnxArtifact if shipped["runtime"] == "onnxruntime" else TorchstoneArtifact
        self._artifact = kind(folder, bundle, shipped)
        self._artifact.load()
        self.example = first_rows(folder, bundle, bundle["timed_rows"][0])
        self._names = self.signature.input_names
        self._known: dict[tuple[tuple[int, ...], ...], int] = {}
        self._pointers = [spec for spec in self.signature.inputs if spec.bounded_by]
        self._warm_up(folder, bundle)
        self.quick_rows = self.most_rows if self._is_quick(folder, bundle) else 0
        """Rows up to which a call takes less than it costs to hand it to a thread; 0 if that is not known."""
        self.close: Callable[[], None] = lambda: None

    def __call__(self, arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """One call: inputs and outputs in the signature's order."""
        outputs = self._artifact.call(dict(zip(self._names, arrays, strict=True)))
        return [np.asarray(outputs[name]) for name in self.signature.output_names]

    def check_shapes(self, shapes: tuple[tuple[int, ...], ...]) -> int:
        """The rows of a call with inputs of these shapes, in the signature's order.

        Raises:
            Refusal: 400, a rank that is not the signature's, or a size that was not tested.
        """
        rows = self._known.get(shapes)
        if rows is None:
            try:
                sizes = self.signature.check_shapes(shapes)
            except ContractError as error:
                raise invalid(f"input {error}") from None
            except ZeroDivisionError:
                raise invalid(f"inputs of the sizes {[[*shape] for shape in shapes]} do not fit each other") from None
            rows = sizes[self.batch] if self.batch else 1
            if len(self._known) >= _KNOWN_SHAPES:
                self._known.clear()
            self._known[shapes] = rows
        return rows

    def check_values(self, arrays: Sequence[np.ndarray[Any, Any]]) -> None:
        """Hold integers that point into another tensor to it; dtypes and shapes are the signature's.

        Raises:
            Refusal: 400, naming the input and the value.
        """
        if self._pointers:
            self._check_bounds(self._pointers, arrays)

    def blame(self, arrays: Sequence[np.ndarray[Any, Any]]) -> Refusal | None:
        """What of a call that failed lies outside of what the signature declares; None if nothing does.

        Such values are tried: examples may not have shown all that a model takes.
        """
        try:
            self._check_bounds([spec for spec in self.signature.inputs if spec.is_integer], arrays)
        except Refusal as refusal:
            return refusal
        return None

    def _check_bounds(self, specs: Sequence[TensorSpec], arrays: Sequence[np.ndarray[Any, Any]]) -> None:
        """Integers lie where the signature says: outside, a runtime may read memory that is not the tensor's.

        Raises:
            Refusal: 400, naming the input and the value.
        """
        sizes = self.signature.check_arrays(arrays)
        by_name = dict(zip(self._names, arrays, strict=True))
        for spec in specs:
            array = by_name[spec.name]
            low, high = spec.declared_bounds(sizes)
            for value in (array.min(), array.max()) if array.size else ():
                if not low <= value <= high:
                    raise invalid(f"input {spec.name!r} must lie between {low:g} and {high:g}, got {value}")

    def _joins(self, *, rows_together: bool) -> bool:
        """Whether requests can be answered by one call: rows that look at no other, first in every tensor."""
        specs = (*self.signature.inputs, *self.signature.outputs)
        return bool(self.batch) and not rows_together and all(
            spec.shape and spec.shape[0] == self.batch and self.batch not in spec.shape[1:] for spec in specs
        )  # fmt: skip

    def _warm_up(self, folder: Path, bundle: Mapping[str, Any]) -> None:
        """The golden calls, which the check has compared: here what a first call costs is paid."""
        for call in bundle["golden"]:
            inputs = {name: np.load(folder / path, allow_pickle=False) for name, path in call["inputs"].items()}
            self._artifact.call(inputs)

    def _is_quick(self, folder: Path, bundle: Mapping[str, Any]) -> bool:
        """Whether no call of joined requests takes long: by measuring, where rows alone decide on that."""
        if self.shipped["runtime"] != "onnxruntime" or self.signature.has_draw_functions:
            return False
        if set(self.signature.ranges) - {self.batch} or _has_loops(folder / self.shipped["file"]):
            return False
        return self._call_s(first_rows(folder, bundle, self.most_rows)) < _QUICK_S

    def _call_s(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> float:
        """The least time of a few calls, in seconds."""
        times_s = []
        for _ in range(_TIMED_COUNT):
            began_s = time.monotonic()
            self._artifact.call(inputs)
            times_s.append(time.monotonic() - began_s)
        return min(times_s)


def open_model(place: Path, version: str, admit: Admit, request: Request) -> Model:
    """Verify the bundle in ``place``, then load of it what was checked, if it is admitted.

    Raises:
        Refused: the bundle is not what it says, or does not do here what it must.
        Unable: the check is not possible.
    """
    findings: dict[str, Any] = {}
    with contextlib.ExitStack() as kept:
        folder = kept.enter_context(verified(place, request, findings))
        files = {file.path for file in read_manifest(read_regular(folder / MANIFEST, MANIFEST))}
        model = Model(folder, read_bundle(folder, files), findings, version, admit)
        model.close = kept.pop_all().close
    return model


def most_marks(signature: Signature) -> int:
    """The most commas and brackets that the JSON of a call's tensors holds, nested, at the largest tested sizes."""
    largest = {name: bounds.max for name, bounds in signature.ranges.items()}
    return sum(
        (1 + len(spec.shape)) * math.prod(size_of(dim, largest) or 1 for dim in spec.shape) for spec in signature.inputs
    )


def _tested(signature: Signature, tested_sizes: Mapping[str, Mapping[str, int]]) -> Signature:
    """The signature with the ranges that parity tested: no other size may be asked."""
    ranges = {
        name: SizeRange(min=tested_sizes[name]["min"], max=tested_sizes[name]["max"], multiple=bounds.multiple)
        if name in tested_sizes
        else bounds
        for name, bounds in signature.ranges.items()
    }
    return replace(signature, ranges=ranges)


def _has_loops(file: Path) -> bool:
    """Whether the graph has nodes that repeat: how long it takes then depends on values."""
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop()
        if node.op_type in _LOOPS:
            return True
        pending += [inner for attribute in node.attribute for inner in attribute.g.node]
        pending += [inner for attribute in node.attribute for graph in attribute.graphs for inner in graph.node]
    return False
