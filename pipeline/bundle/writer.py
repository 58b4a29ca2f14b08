"""A bundle from a finished run: what was chosen, its proof, and how to serve it.

Everything comes from the run's records and files, checked against their digests; the recipe is not needed any more.
Records are copied as they are, save the host's name, which lies outside of every digest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rfc8785

from bench.parity.jobs import REFERENCE_RECORD
from bench.parity.levels.fidelity import LEAST_SQNR_DB, is_quantized
from bench.parity.report import ParityReport
from bench.timing.measurement import Measurement
from bench.timing.spec import BenchSpec
from bench.verdict.judge import BASELINE, Row, Verdict
from bench.verdict.limits import Limits
from export.artifact import PROGRAM_RECORD, RECORD, Artifact, open_artifact
from export.environment import environment
from export.errors import RecordError, UserError
from export.record import digest, digest_files, encode, from_json, read, write
from export.version import VERSION
from pipeline.bundle.forms.kubernetes import write_deployment, write_kserve
from pipeline.bundle.forms.mlflow import write_mlmodel
from pipeline.bundle.forms.triton import write_aoti_repository, write_onnx_repository
from pipeline.bundle.golden import write_golden
from pipeline.bundle.model_card import write_model_card
from pipeline.bundle.needs import ONNX_BACKENDS, main_file, needs, runtime
from pipeline.bundle.record import (
    Bundle,
    Claim,
    ClaimedLatency,
    Manifest,
    Shipped,
)
from pipeline.bundle.single_file import single_file
from pipeline.bundle.workload import write_workload
from pipeline.run import RecipeRecord
from pipeline.stages.measure import SESSION
from pipeline.training.loop import RECORD as CHECKPOINT
from pipeline.verifier.files import MANIFEST
from pipeline.verifier.outcome import Refused, Unable
from pipeline.verifier.running import Bounds, run_artifact
from pipeline.verifier.speed import first_rows
from pipeline.verifier.verify import BUNDLE

ONNX_FILE, WORKLOAD = "model.onnx", "calibration.onnx"
_TRITON, _TRITON_AOTI = "serving/triton", "serving/triton-aoti"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What goes into a bundle besides what the verdict says."""

    also: tuple[str, ...] = ()
    """Artifacts to ship beside the winner and ONNX."""
    storage_uri: str | None = None
    """Where KServe finds the Triton repository; None: a volume claim named after the recipe."""


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """An ONNX artifact rewritten for an older runtime, and the proof that it is still the model."""

    folder: Path
    artifact: Artifact
    report: ParityReport
    target_ort: str


def make(run: Path, folder: Path, key: str, choice: Choice, lowered: Lowered | None = None) -> Manifest:
    """Fill ``folder`` with the bundle of ``run``, manifest last.

    Raises:
        UserError: the verdict is not good, or an artifact that is asked for may not ship.
        RecordError: something of the run changed since it was judged.
    """
    verdict = read(Verdict, run / "verdict.json")
    recipe = read(RecipeRecord, run / "recipe.json")
    rows = chosen_rows(verdict, choice.also)
    onnx = next((row.name for row in rows if row.name in ONNX_BACKENDS), None)
    shipped, artifacts, reports = [], {}, {}
    for row in rows:
        one = lowered if lowered is not None and row.name == onnx else None
        artifact, report, source = (one.artifact, one.report, one.folder) if one else _judged(run, row)
        artifacts[row.name], reports[row.name] = artifact, report
        place = _copy_files(artifact, source, folder, at_root=row.name == onnx)
        _write_bare(folder / "records" / "artifacts" / f"{row.name}.json", encode(artifact))
        shipped.append(
            _shipped(run, recipe, row, artifact, report, source, place, judged=row.artifact_sha256 if one else None)
        )
    default = next((one for one in shipped if one.name == onnx), shipped[0])
    _copy_records(run, folder, rows, reports)
    signature = artifacts[default.name].signature
    limits, bench = from_json(Limits, recipe.settings["limits"]), from_json(BenchSpec, recipe.settings["bench"])
    calls = tuple(write_golden(run, folder, signature, reports[default.name].thresholds))
    write_workload(folder / WORKLOAD)
    bundle = Bundle(
        name=recipe.name,
        version=VERSION,
        licence=recipe.settings["licence"],
        default=default.name,
        winner=str(verdict.winner),
        shipped=tuple(shipped),
        signature=signature,
        batch=signature.batch,
        golden=calls,
        timed_rows=_timed_rows(default, signature.batch, limits, bench),
        kernel=WORKLOAD,
        limits=limits,
        target_ort=lowered.target_ort if lowered else None,
        verdict_sha256=digest(verdict),
        environment=environment(),
    )
    _write_serving(folder, bundle, choice.storage_uri)
    (folder / "verify.py").write_text(single_file())
    bundle = replace(bundle, shipped=tuple(replace(one, claim=_claim(folder, bundle, one)) for one in bundle.shipped))
    write(folder / BUNDLE, bundle)
    write_model_card(folder / "README.md", bundle, verdict, reports)
    manifest = Manifest(key=key, files=digest_files(folder, (path for path in folder.rglob("*") if path.is_file())))
    write(folder / MANIFEST, manifest)
    return manifest


def chosen_rows(verdict: Verdict, also: Sequence[str] = ()) -> list[Row]:
    """The winner's row, that of the best ONNX that may ship, and those asked for.

    Raises:
        UserError: the verdict is not good, or one that is asked for may not ship.
    """
    if not verdict.good or verdict.winner is None:
        raise UserError(
            f"the verdict on {verdict.recipe} is not good, nothing is shipped: "
            f"{'; '.join(verdict.reasons) or 'no winner'}"
        )
    rows = {row.name: row for row in verdict.rows}
    names = [verdict.winner]
    if verdict.winner not in ONNX_BACKENDS:
        names += [name for name in ONNX_BACKENDS if name in rows and rows[name].shippable][:1]
    for name in also:
        if name not in rows or not rows[name].shippable or name == BASELINE:
            eligible = ", ".join(row.name for row in verdict.rows if row.shippable and row.name != BASELINE)
            raise UserError(f"{name!r} may not ship; {eligible} may")
    return [rows[name] for name in dict.fromkeys([*names, *also])]


def onnx_row(verdict: Verdict) -> Row | None:
    """The row whose file becomes ``model.onnx``; None if no ONNX may ship."""
    return next((row for row in chosen_rows(verdict) if row.name in ONNX_BACKENDS), None)


def _judged(run: Path, row: Row) -> tuple[Artifact, ParityReport, Path]:
    """An artifact and its report, if they are those that the verdict judged."""
    source = run / "artifacts" / row.name
    artifact, report = open_artifact(source), read(ParityReport, run / "parity" / f"{row.name}.json")
    if (digest(artifact), digest(report)) != (row.artifact_sha256, row.parity_sha256):
        raise RecordError(f"{row.name} is not what the verdict judged: python -m pipeline.all judges it again")
    return artifact, report, source


def _copy_files(artifact: Artifact, source: Path, folder: Path, *, at_root: bool) -> str:
    """The artifact's files: ONNX at the root of the bundle, others with their record in ``artifacts/<name>/``.

    Returns the path of the one that is loaded.
    """
    main = main_file(artifact)
    place = folder if at_root else folder / "artifacts" / artifact.name
    for file in artifact.files:
        target = place / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file.path, target)
    if not at_root:
        _write_bare(place / RECORD, encode(artifact))
    return (place / main).relative_to(folder).as_posix()


def _write_bare(target: Path, data: bytes) -> None:
    """A record's bytes without the name of the host that made it, which lies outside of its digest."""
    fields = json.loads(data)
    if "observed" in fields:
        fields["observed"]["host"] = ""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(rfc8785.dumps(fields))


def _copy_records(run: Path, folder: Path, rows: Sequence[Row], reports: Mapping[str, ParityReport]) -> None:
    """The chain from the verdict to the recipe, and the raw measurements of what ships and of the baseline."""
    records = folder / "records"
    for source, name in (
        (run / "recipe.json", "recipe.json"),
        (run / "checkpoint" / CHECKPOINT, "checkpoint.json"),
        (run / "program" / PROGRAM_RECORD, "program.json"),
        (run / "parity" / "reference" / REFERENCE_RECORD, "reference.json"),
        (run / "verdict.json", "verdict.json"),
        (run / "measurements" / f"{SESSION}.json", f"measurements/{SESSION}.json"),
    ):
        if source.exists():
            _write_bare(records / name, source.read_bytes())
    for name, report in reports.items():
        _write_bare(records / "parity" / f"{name}.json", encode(report))
    for name in (BASELINE, *(row.name for row in rows)):
        measured = run / "measurements" / f"{name}.json"
        if measured.exists():
            _write_bare(records / "measurements" / f"{name}.json", measured.read_bytes())


def _shipped(
    run: Path,
    recipe: RecipeRecord,
    row: Row,
    artifact: Artifact,
    report: ParityReport,
    source: Path,
    place: str,
    judged: str | None,
) -> Shipped:
    measured = run / "measurements" / f"{row.name}.json"
    peaks = [one.peak_bytes or 0 for one in read(Measurement, measured).cold_starts] if measured.exists() else []
    return Shipped(
        name=row.name,
        backend=artifact.backend,
        runtime=runtime(artifact.backend),
        precision=artifact.precision,
        file=place,
        size_bytes=artifact.size_bytes,
        options=report.options,
        tested_sizes=report.tested_sizes,
        parity=report.status,
        allow_no_reference=bool(recipe.settings["parity"]["allow_no_reference"]),
        least_sqnr_db=LEAST_SQNR_DB if is_quantized(artifact.precision) else None,
        needs=needs(artifact, source),
        peak_bytes=max(peaks, default=0),
        artifact_sha256=digest(artifact),
        parity_sha256=digest(report),
        lowered_from=judged,
        claim=None,
    )


def _timed_rows(default: Shipped, batch: str | None, limits: Limits, bench: BenchSpec) -> tuple[int, ...]:
    """The batch sizes of the recipe's own measurement, as far as they were proved, and that of its limits."""
    if batch is None:
        return (1,)
    tested_sizes = default.tested_sizes.get(batch)
    wanted = sorted({*bench.batch_rows, limits.batch_rows})
    inside = tuple(rows for rows in wanted if tested_sizes is None or tested_sizes.min <= rows <= tested_sizes.max)
    return inside or ((tested_sizes.min,) if tested_sizes else (1,))


def _write_serving(folder: Path, bundle: Bundle, storage_uri: str | None) -> None:
    """The serving forms of what is in the bundle."""
    for one in bundle.shipped:
        if one.file == ONNX_FILE:
            row = first_rows(folder, bundle_json(bundle), 1)
            write_onnx_repository(folder / _TRITON, bundle.name, folder / ONNX_FILE, bundle.signature, one, row)
            uri = storage_uri or f"pvc://{bundle.name}/{_TRITON}"
            write_kserve(folder / "serving" / "kserve.yaml", bundle.name, one, uri)
            write_deployment(folder / "serving", bundle.name, one)
            write_mlmodel(folder, ONNX_FILE, bundle.signature)
        elif one.backend == "aotinductor":
            write_aoti_repository(folder / _TRITON_AOTI, bundle.name, folder / one.file, bundle.signature, one)


def _claim(folder: Path, bundle: Bundle, one: Shipped) -> Claim:
    """What the check itself finds here: it must accept the artifact before anybody else is asked to."""
    fields = bundle_json(bundle)
    try:
        found = run_artifact(folder, fields, next(s for s in fields["shipped"] if s["name"] == one.name), Bounds())
    except (Refused, Unable) as error:
        raise RecordError(f"{one.name} does not pass its own golden samples, nothing is shipped: {error}") from error
    return Claim(
        cold_s=found["cold_s"],
        peak_bytes=found["peak_bytes"],
        latency=tuple(
            ClaimedLatency(batch_rows=each["batch_rows"], median_s=each["median_s"], workload_s=each["kernel_s"])
            for each in found["latency"]
        ),
    )


def bundle_json(bundle: Bundle) -> dict[str, Any]:
    """The record as the check reads it."""
    fields: dict[str, Any] = json.loads(encode(bundle))
    return fields
