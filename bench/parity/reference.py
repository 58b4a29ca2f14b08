"""The reference of a parity check: the inputs of every case, and the model's own answers to them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from bench.parity.cases import Case, Pool, Tensors, plan
from bench.parity.equivalent import EquivalentVariant, equivalent_variants
from bench.parity.oracle import Oracle
from bench.parity.remarks import DRAWN_TOGETHER, ROWS_TOGETHER, effects, rows_are_own
from bench.parity.scores import SCORES, keep_scores
from bench.parity.spec import ParitySpec
from bench.parity.store import load_case, save_case
from export.artifact import verified_program
from export.build import Source
from export.errors import UserError
from export.files import FileDigest, digest_files
from export.record import OMITTED, Observed, Record, observed, write
from export.signature import Signature
from export.task import task

INPUTS, FLOAT64, EAGER = "inputs", "float64", "eager"
REFERENCE_RECORD = "reference.json"


@dataclass(frozen=True, kw_only=True)
class Reference(Record):
    """What lies in ``parity/reference/``: the inputs of every case, and the model's own answers to them."""

    SCHEMA: ClassVar[str] = "torchstone.reference/3"

    key: str
    checkpoint_sha256: str
    cases: tuple[Case, ...]
    """Case *i* has its tensors in ``inputs/``, ``float64/`` and ``eager/``, in the file of its number."""
    real_rows_count: int
    """Rows at the beginning of the pool that are real."""
    left_out: dict[str, str]
    """Cases that were not tried, with the reason."""
    float64_by: str | None
    """Who answered in float64: the ``module`` itself, or its traced ``program`` with casts widened."""
    failure: str | None
    """Why the model has no float64 answer; None if it has."""
    variants: tuple[EquivalentVariant, ...]
    """How far equivalent variants of the model are from float64."""
    own_rows: bool = field(default=True, metadata=OMITTED)
    """Whether each row's answer is its own; else the rows of a call look at each other."""
    remarks: tuple[str, ...] = field(default=(), metadata=OMITTED)
    """What the model does besides answering."""
    program_differs: str | None = field(default=None, metadata=OMITTED)
    """How the traced program is another function than the model; None if it is not."""
    files: tuple[FileDigest, ...]
    observed: Observed

    def indices(self, *groups: str) -> list[int]:
        """The numbers of the cases of some groups."""
        return [index for index, case in enumerate(self.cases) if case.group in groups]


@dataclass(frozen=True, kw_only=True)
class ReferenceJob:
    """Answer every case with the source's module, in float64 and in float32."""

    source: Source
    signature: Signature
    spec: ParitySpec
    real_rows: str | None
    """A safetensors file with rows of real inputs by name."""
    program: str | None
    """The traced program's folder, verified; None if the model could not be traced."""
    seed: int
    device: str
    key: str
    checkpoint_sha256: str
    folder: str


@task
def reference(job: ReferenceJob) -> None:
    """Write inputs, float64 answers (on the CPU) and eager float32 answers (on the device) of every case."""
    from safetensors.numpy import load_file

    started = time.monotonic()
    folder = Path(job.folder)
    pool = Pool(signature=job.signature, samples=load_file(job.real_rows) if job.real_rows else {}, seed=job.seed)
    program_file = verified_program(Path(job.program)) if job.program else None
    oracle = Oracle(job.source.module(), job.signature, job.device, program_file)
    for name in (INPUTS, FLOAT64, EAGER):
        (folder / name).mkdir()
    cases = plan(pool, job.spec)
    remarks = effects(oracle, pool.inputs(cases[0]))
    if oracle.program_differs is not None:
        remarks.insert(0, f"{oracle.program_differs}. Rows that are made from it are held to the model itself")
    kept, left_out = _answer_all(oracle, pool, cases, job.spec, folder)
    if (why := keep_scores(oracle, folder / INPUTS, folder / SCORES, len(kept))) is not None:
        left_out["scores of choices"] = why
    variants: tuple[EquivalentVariant, ...] = ()
    own_rows = not pool.whole and not job.signature.rows_together
    if not oracle.failure and not oracle.has_moved:
        first = next(index for index, case in enumerate(kept) if case.group == "rows")
        inputs = load_case(folder / INPUTS, first, [spec.name for spec in job.signature.inputs])
        own_rows = own_rows and rows_are_own(oracle, inputs)
        variants = equivalent_variants(oracle, folder, kept, job.spec, job.seed, own_rows=own_rows)
    if not own_rows:
        remarks.append(DRAWN_TOGETHER if pool.whole else ROWS_TOGETHER)
    write(
        folder / REFERENCE_RECORD,
        Reference(
            key=job.key,
            checkpoint_sha256=job.checkpoint_sha256,
            cases=tuple(kept),
            real_rows_count=min(pool.real_rows_count, job.spec.rows_count),
            left_out=left_out,
            float64_by=oracle.float64_by,
            failure=oracle.failure,
            variants=variants,
            own_rows=own_rows,
            remarks=tuple(remarks),
            program_differs=oracle.program_differs,
            files=digest_files(folder, (path for path in folder.rglob("*") if path.is_file())),
            observed=observed(time.monotonic() - started),
        ),
    )


def _answer_all(
    oracle: Oracle, pool: Pool, cases: Sequence[Case], spec: ParitySpec, folder: Path
) -> tuple[list[Case], dict[str, str]]:
    """Answer the cases one by one; those that the model refuses, or that would take too long, are left out.

    Raises:
        UserError: it refuses every ordinary call.
    """
    kept: list[Case] = []
    left_out: dict[str, str] = {}
    slowest = _Slowest()
    for wanted in cases:
        case = wanted
        if case.group == "sizes":
            case = slowest.shrink(wanted, pool, spec.call_limit_s)
            if case != wanted:
                left_out[wanted.name] = f"a call would take longer than {spec.call_limit_s:g} s: {case.name} instead"
        inputs = pool.inputs(case)
        started = time.monotonic()
        try:
            eager, wide = oracle.answer(inputs)
        except Exception as error:  # noqa: BLE001 - the user's own code refuses in its own ways
            left_out[case.name] = f"the model itself refuses it: {type(error).__name__}: {error}"[:300]
            continue
        slowest.add(inputs, time.monotonic() - started)
        index = len(kept)
        save_case(folder / INPUTS, index, inputs)
        save_case(folder / EAGER, index, eager)
        save_case(folder / FLOAT64, index, wide)
        kept.append(case)
    for group in ("calls", "rows"):
        if not any(case.group == group for case in kept):
            raise UserError(f"the model refuses every ordinary call: {next(iter(left_out.values()))}")
    return kept, left_out


class _Slowest:
    """Predicts how long a call takes from those before it, in proportion to its elements."""

    def __init__(self) -> None:
        self._s_per_element = 0.0

    def add(self, inputs: Tensors, duration_s: float) -> None:
        elements = sum(array.size for array in inputs.values())
        if duration_s > 0.05:  # shorter calls are mostly overhead
            self._s_per_element = max(self._s_per_element, duration_s / max(elements, 1))

    def shrink(self, case: Case, pool: Pool, limit_s: float) -> Case:
        """The case itself, or with its largest dimension halved until it is expected to end within the limit."""
        sizes = dict(case.sizes)
        usual = pool.sizes
        grown = [name for name in sizes if sizes[name] > usual[name]]
        while grown and self._s_per_element * pool.signature.elements(sizes) > limit_s:
            name = max(grown, key=lambda name: sizes[name])
            half = pool.signature.ranges[name].fit(sizes[name] // 2)
            if half <= usual[name] or half == sizes[name]:
                break
            sizes[name] = half
        if sizes == case.sizes:
            return case
        name = max(grown, key=lambda name: sizes[name])
        return replace(case, name=f"{name}={sizes[name]}", sizes=sizes)
