"""The job that locates a fault: the artifact's values, one by one, against the traced program's.

Each value that artifact and program have in common is computed twice: by the artifact, and by the program in float64,
both from the same rounded inputs. Its *local* error is what its own operators add; the *inherited* error is that of the
artifact's whole run. The first value, in the program's order, with a local error beyond eager's is the suspect: what
comes after it merely inherits.

Where no value is at fault by itself, the fault is made by what lies between file and execution: graph optimisation of
ONNX Runtime (found by optimisation level, then by disabling its passes), or compilation by Inductor (found by compiling
ever longer beginnings of the program). Weights and settings that differ in the files point at their operator directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.locate.compared import LIMIT, local_ratio
from bench.locate.inductor import compiled_fault
from bench.locate.passes import guilty_passes
from bench.parity.check import Check
from bench.parity.contents.opened import Opened
from bench.parity.contents.settings import settings_check
from bench.parity.contents.weights import weights_check
from bench.parity.reference import FLOAT64, INPUTS, Reference
from bench.parity.report import ParityReport
from bench.parity.store import load_case
from export import registry
from export.arrays import to_numpy, to_torch
from export.artifact import Artifact, open_artifact, verified_program
from export.backend import LoadOptions
from export.program import load_exported
from export.signature import Signature
from export.taps import Taps, Values
from export.taps.trace import Trace
from export.task import task

_ROWS = 16
_MOST_CASES = 4


@dataclass(frozen=True, kw_only=True)
class LocateJob:
    """Where to look."""

    artifact: str
    program: str
    reference: str
    weights: str
    cases: tuple[int, ...]
    """Numbers of the reference's cases to look at, the likeliest first."""
    options: LoadOptions
    checks: tuple[Check, ...] = ()
    """What parity found wrong that has places: of a foreign artifact it alone knows, from the answers."""


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """The first operator that departs from the model by itself."""

    module: str
    """The path of the user's module; empty for the model itself."""
    node: str
    """In the traced program."""
    operator: str
    """PyTorch's."""
    runtime_operator: str
    """The artifact's."""
    line: str
    """In the user's code."""
    between: tuple[str, ...]
    """Other modules whose work is in this value, since program and artifact have no value in common before it."""
    local_ratio: float
    """Its own error, in units of eager's on the same inputs."""
    inherited_ratio: float | None
    """Its error in the artifact's whole run, in units of the value's rounding; None if that could not be had."""
    why: str


@dataclass(frozen=True, kw_only=True)
class Location:
    """What was found."""

    suspect: Suspect | None
    nodes_count: int
    """Values of the program."""
    matched_count: int
    """Those that the artifact has too."""
    message: str
    """How it was found, or why not."""


def likeliest_cases(report: ParityReport, reference: Reference) -> tuple[int, ...]:
    """Cases in which to look for a fault: those that the report names for failing, then the first rows."""
    failing = {name for check in report.checks if check.status == "fail" for name in check.cases}
    named = [index for index, case in enumerate(reference.cases) if case.name in failing]
    rows = [index for index in named if reference.cases[index].group == "rows"]
    return tuple(dict.fromkeys([*rows, *reference.indices("rows")[:1], *named]))[:_MOST_CASES]


@task
def locate(job: LocateJob) -> Location:
    """Name the first operator at fault."""
    folder = Path(job.artifact)
    artifact = open_artifact(folder)
    exported = load_exported(verified_program(Path(job.program)))
    backend = registry.get(artifact.backend)
    trace = backend.trace(exported)
    from_files = _from_files(trace, _files_checks(artifact, job))
    taps: Taps | None = None
    for case in job.cases:
        inputs = _inputs(job, case, artifact.signature)
        trace.run([to_torch(array) for array in inputs.values()])
        taps = taps or backend.taps(folder, trace, job.options)
        if taps is not None and (suspect := first_suspect(trace, taps, inputs)) is not None:
            return _location(
                trace, taps, _told_apart(suspect, from_files), "its own values, computed from the program's"
            )
    if from_files is not None:
        where = "its answers, by which this weight is off" if artifact.is_foreign else "the artifact's files"
        return _location(trace, taps, from_files, where)
    return _by_compilation(job, artifact, exported, trace, taps)


def _by_compilation(job: LocateJob, artifact: Artifact, exported: Any, trace: Trace, taps: Taps | None) -> Location:
    """The fault lies neither in a single value nor in the files: it is made when the artifact is loaded or compiled."""
    backend = registry.get(artifact.backend)
    inputs = _inputs(job, job.cases[0], artifact.signature)
    trace.run([to_torch(array) for array in inputs.values()])
    if taps is not None and backend.compiler == "onnxruntime":
        message = guilty_passes(Path(job.artifact), artifact, trace, inputs, job.options)
        return _location(trace, taps, None, message)
    if artifact.is_foreign:
        message = "made elsewhere, it has no inner values by the program's names, and no weight is off by its answers"
        return _location(trace, taps, None, message)
    if backend.compiler != "inductor":
        message = f"{artifact.backend} keeps no names of inner values, and no weight or setting in its files differs"
        return _location(trace, taps, None, message)
    name = compiled_fault(exported, trace, list(inputs.values()))
    if name is None:
        message = "compiling the traced program here gives no fault: the artifact was made of another program"
        return _location(trace, taps, None, message)
    suspect = _suspect(trace, name, "Inductor", np.inf, None, "Inductor's code for the program up to here is wrong")
    return _location(trace, taps, suspect, "compiling ever longer beginnings of the program")


def _told_apart(suspect: Suspect, from_files: Suspect | None) -> Suspect:
    """The module whose weights or settings differ in the files, of several whose work is in one value."""
    if from_files is None or from_files.module not in suspect.between:
        return suspect
    others = (suspect.module, *(module for module in suspect.between if module != from_files.module))
    return replace(
        suspect,
        module=from_files.module,
        node=from_files.node,
        operator=from_files.operator,
        line=from_files.line,
        between=others,
        why=from_files.why,
    )


def first_suspect(trace: Trace, taps: Taps, inputs: Mapping[str, Values]) -> Suspect | None:
    """The first value in the program's order whose local error is beyond eager's."""
    inherited: dict[str, Values] | None
    try:
        inherited = taps.run(inputs)
    except Exception:  # noqa: BLE001 - a runtime that cannot run the whole may still run the parts, which is what counts
        inherited = None
    for name in trace.nodes:
        if name not in taps.names:
            continue
        given = taps.given(name)
        truth, eager = (to_numpy(tensor) for tensor in trace.local(name, given))
        why = "its own error is beyond eager's"
        try:
            got = taps.local(name, {source: to_numpy(trace.rounded(source)) for source in given})
            ratio = local_ratio(truth, eager, got)
        except Exception as error:  # noqa: BLE001 - each runtime refuses in its own type; the refusal is the finding
            ratio, why = np.inf, f"it does not run: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if ratio > LIMIT:
            whole = None
            if inherited is not None:
                own = to_numpy(trace.values[name])
                whole = local_ratio(own, to_numpy(trace.rounded(name)), inherited[name])
            between = [*map(trace.scope, trace.between(name, given)), *taps.modules(name)]
            return _suspect(trace, name, taps.operator(name), float(ratio), whole, why, between)
    return None


def _suspect(
    trace: Trace,
    name: str,
    runtime_operator: str,
    local: float,
    inherited: float | None,
    why: str,
    between: Sequence[str] = (),
) -> Suspect:
    return Suspect(
        module=trace.scope(name),
        node=name,
        operator=trace.operator(name),
        runtime_operator=runtime_operator,
        line=trace.line(name),
        between=tuple(dict.fromkeys(module for module in between if module != trace.scope(name))),
        local_ratio=local,
        inherited_ratio=inherited,
        why=why,
    )


def _from_files(trace: Trace, checks: Sequence[Check]) -> Suspect | None:
    """The operator that uses the first weight, or has the first setting, that differs in the files."""
    users = trace.weight_users
    order = {name: index for index, name in enumerate(trace.nodes)}
    for check in checks:
        if check.status != "fail":
            continue
        named = [users[weight] for weight in check.places if weight in users]
        named += [name for name in trace.nodes if name in check.places or (trace.scope(name) or None) in check.places]
        if named:
            return _suspect(trace, min(named, key=lambda name: order[name]), "unknown", np.inf, None, check.message)
    return None


def _files_checks(artifact: Artifact, job: LocateJob) -> list[Check]:
    """What of the weights and settings in the artifact's files is not the model's."""
    if artifact.is_foreign:
        return list(job.checks)
    opened = Opened(artifact, Path(job.artifact), Path(job.program))
    return [weights_check(opened, Path(job.weights)), settings_check(opened)]


def _location(trace: Trace, taps: Taps | None, suspect: Suspect | None, message: str) -> Location:
    return Location(
        suspect=suspect,
        nodes_count=len(trace.nodes),
        matched_count=len(taps.names) if taps else 0,
        message=message,
    )


def _inputs(job: LocateJob, case: int, signature: Signature) -> dict[str, Values]:
    """The rows of a case that the artifact gets most wrong, and its first ones; all, where a function drew them."""
    reference = Path(job.reference)
    inputs = load_case(reference / INPUTS, case, [spec.name for spec in signature.inputs])
    batch = signature.batch
    count = next((len(inputs[spec.name]) for spec in signature.inputs if spec.shape[:1] == (batch,)), 0)
    if batch is None or count <= 2 * _ROWS or signature.has_draw_functions:
        return inputs
    rows = np.union1d(np.arange(_ROWS), _worst_rows(job, case, signature, inputs, count))
    return {
        spec.name: np.ascontiguousarray(inputs[spec.name][rows]) if spec.shape[:1] == (batch,) else inputs[spec.name]
        for spec in signature.inputs
    }


def _worst_rows(job: LocateJob, case: int, signature: Signature, inputs: Mapping[str, Values], count: int) -> Values:
    """The rows with the largest errors; none if the artifact does not answer."""
    try:
        answers = registry.load(Path(job.artifact), job.options)(inputs)
    except Exception:  # noqa: BLE001 - each runtime refuses in its own type; its parts are then looked at on other rows
        return np.arange(0)
    truth = load_case(Path(job.reference) / FLOAT64, case, signature.output_names)
    errors = np.zeros(count)
    for name, wide in truth.items():
        got = to_numpy(answers[name])
        if got.shape == wide.shape and wide.shape[:1] == (count,):
            with np.errstate(invalid="ignore", over="ignore"):
                error = np.abs(got.astype(np.float64) - wide.astype(np.float64)).reshape(count, -1)
            same = (got == wide).reshape(count, -1) | (np.isnan(got) & np.isnan(wide)).reshape(count, -1)
            errors = np.maximum(errors, np.where(same, 0.0, np.nan_to_num(error, nan=np.inf)).max(1, initial=0.0))
    return np.argsort(errors)[-_ROWS:]
