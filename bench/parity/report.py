"""The verdict of parity: an artifact may be as far from float64 as eager float32 honestly is, and no farther.

For each output, over every element of every case,

    ratio = error(artifact, float64) / max(error(eager float32, float64), error(float64 rounded to the dtype, float64))

once with the root mean square of all cases together (at most 2) and once with the largest single error of each case
(at most 4). The rounding term is the representation floor: it keeps the ratio meaningful where eager happens to be
exact. The denominators are pooled over all cases, since a case of one row holds too few elements to know its own
error. Method and thresholds: 432 legitimate artifacts had ratios up to 1.7 and 2.4, 330 injected faults 9.6 and more.

Elements where float64 and eager float32 disagree on being finite are undefined in float32: counted, shown, and
neither pass nor fail. Everywhere else the artifact must be finite where float64 is, and equal where it is not.
Integer and boolean outputs must be equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from bench.parity.cases import ParitySpec, load_cases
from bench.parity.jobs import EAGER, FLOAT64, Outputs, Reference
from export.artifact import Artifact
from export.backend import Witness
from export.record import Observed, Record, digest, observed

ParityStatus = Literal["pass", "fail", "inconclusive", "no-reference"]
Values = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class OutputParity:
    """One output of one artifact against float64."""

    name: str
    rms_ratio: float
    peak_ratio: float
    peak_sizes: dict[str, int]
    """The case of the largest error."""
    max_abs_error: float
    compared_count: int
    """Elements whose value was compared: those that are finite, of floating outputs."""
    undefined_count: int
    """Elements on which float64 and eager float32 do not agree whether they are finite."""


@dataclass(frozen=True, kw_only=True)
class ParityReport(Record):
    """Whether one artifact computes the model's function, with the evidence."""

    SCHEMA: ClassVar[str] = "torchstone.parity/1"

    key: str
    artifact: str
    artifact_sha256: str
    reference_sha256: str
    status: ParityStatus
    reasons: tuple[str, ...]
    """Why it does not pass; empty if it does."""
    spec: ParitySpec
    outputs: tuple[OutputParity, ...]
    witness: Witness
    observed: Observed

    @property
    def worst_ratio(self) -> float | None:
        """The largest peak ratio of any output; None if nothing could be compared."""
        return max((output.peak_ratio for output in self.outputs), default=None)


def compare(
    artifact: Artifact,
    reference: Reference,
    folder: Path,
    answered: Outputs,
    outputs_file: Path,
    spec: ParitySpec,
    key: str,
    duration_s: float,
) -> ParityReport:
    """Judge one artifact's answers; ``folder`` is the reference's."""
    reasons = [
        _refusal(reference.sizes[int(i)], reason)
        for i, reason in sorted(answered.refusals.items(), key=lambda item: int(item[0]))
    ]
    if answered.witness.fallback:
        reasons.append(answered.witness.fallback)
    status: ParityStatus = "fail" if reasons else "pass"
    results: list[OutputParity] = []
    if reference.failure:
        status = "fail" if reasons else "no-reference"
        reasons.append(reference.failure)
    elif not answered.refusals:
        names = artifact.signature.output_names
        count = len(reference.sizes)
        for name in names:
            tally = _Tally(name)
            for sizes, wide, eager, got in zip(
                reference.sizes,
                load_cases(folder / FLOAT64, (name,), count),
                load_cases(folder / EAGER, (name,), count),
                load_cases(outputs_file, (name,), count),
                strict=True,
            ):
                tally.add(sizes, wide[name], eager[name], got[name])
            results.append(tally.result())
            reasons += tally.reasons(spec)
        empty = [output.name for output in results if output.compared_count == 0]
        if reasons:
            status = "fail"
        elif empty:
            status = "inconclusive"
            reasons.append(f"{empty[0]}: no element is finite in float64 and float32, nothing could be compared")
    return ParityReport(
        key=key,
        artifact=artifact.name,
        artifact_sha256=digest(artifact),
        reference_sha256=digest(reference),
        status=status,
        reasons=tuple(reasons),
        spec=spec,
        outputs=tuple(results),
        witness=answered.witness,
        observed=observed(duration_s),
    )


class _Tally:
    """Errors of one output, gathered case by case."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._squares = {"artifact": 0.0, "eager": 0.0, "floor": 0.0}
        self._peaks = {"eager": 0.0, "floor": 0.0}
        self._case_peaks: list[tuple[float, dict[str, int]]] = []
        self._compared_count = self._undefined_count = 0
        self._wrong: list[str] = []

    def add(self, sizes: dict[str, int], wide: Values, eager: Values, got: Values) -> None:
        """Add one case; structure that differs is kept as a reason."""
        if got.shape != wide.shape or got.dtype != eager.dtype:
            self._wrong.append(
                f"{self.name}{_at(sizes)} must be {eager.dtype}{list(wide.shape)}, got {got.dtype}{list(got.shape)}"
            )
            return
        if not np.issubdtype(eager.dtype, np.floating):
            defined = eager == wide
            if wrong := int((got != wide)[defined].sum()):
                self._wrong.append(f"{self.name}{_at(sizes)}: {wrong} of {got.size} values differ")
            self._count(compared=defined, undefined=~defined)
            return
        defined = (np.isfinite(wide) == np.isfinite(eager)) & (np.isnan(wide) == np.isnan(eager))
        finite = np.isfinite(wide) & defined
        if wrong := int((~np.isfinite(got) & finite).sum()):
            self._wrong.append(f"{self.name}{_at(sizes)}: {wrong} of {got.size} values are not finite where float64 is")
            finite &= np.isfinite(got)
        special = ~np.isfinite(wide) & defined
        if wrong := int((~((got == wide) | (np.isnan(got) & np.isnan(wide))) & special).sum()):
            self._wrong.append(
                f"{self.name}{_at(sizes)}: {wrong} of {got.size} values should be NaN or Inf as float64 has them"
            )
        self._count(compared=finite, undefined=~defined)
        truth = wide[finite].astype(np.float64)
        errors = {
            "artifact": got[finite].astype(np.float64) - truth,
            "eager": eager[finite].astype(np.float64) - truth,
            "floor": truth.astype(eager.dtype).astype(np.float64) - truth,
        }
        for who, error in errors.items():
            self._squares[who] += float(np.square(error).sum())
        for who in self._peaks:
            self._peaks[who] = max(self._peaks[who], _peak(errors[who]))
        self._case_peaks.append((_peak(errors["artifact"]), sizes))

    def result(self) -> OutputParity:
        """The figures of this output."""
        peak, sizes = max(self._case_peaks, key=lambda item: item[0], default=(0.0, {}))
        return OutputParity(
            name=self.name,
            rms_ratio=_ratio(
                math.sqrt(self._squares["artifact"]), math.sqrt(max(self._squares["eager"], self._squares["floor"]))
            ),
            peak_ratio=_ratio(peak, max(self._peaks.values())),
            peak_sizes=sizes,
            max_abs_error=peak,
            compared_count=self._compared_count,
            undefined_count=self._undefined_count,
        )

    def reasons(self, spec: ParitySpec) -> list[str]:
        """What breaks the thresholds; a NaN ratio breaks them too."""
        result = self.result()
        reasons = list(self._wrong)
        if not result.rms_ratio <= spec.max_rms_ratio:
            reasons.append(
                f"{self.name}: RMS error is {result.rms_ratio:.3g} times eager's own, "
                f"at most {spec.max_rms_ratio:g} passes"
            )
        if not result.peak_ratio <= spec.max_peak_ratio:
            reasons.append(
                f"{self.name}{_at(result.peak_sizes)}: largest error is {result.peak_ratio:.3g} times eager's own "
                f"({result.max_abs_error:.3g}), at most {spec.max_peak_ratio:g} passes"
            )
        return reasons

    def _count(self, *, compared: Values, undefined: Values) -> None:
        self._compared_count += int(compared.sum())
        self._undefined_count += int(undefined.sum())


def _peak(error: Values) -> float:
    return float(np.abs(error).max(initial=0.0))


def _ratio(error: float, floor: float) -> float:
    """No error is no error whatever the floor; an error where nothing may differ is infinite."""
    if error == 0.0:
        return 0.0
    return error / floor if floor > 0.0 else math.inf


def _at(sizes: Mapping[str, int]) -> str:
    return f" at {', '.join(f'{name}={size}' for name, size in sizes.items())}" if sizes else ""


def _refusal(sizes: Mapping[str, int], reason: str) -> str:
    return f"refused{_at(sizes)}: {reason}"
