"""A bundle from a finished run: what was chosen, its proof, and how to serve it.

Everything comes from the run's records and files, checked against their digests; the recipe is not needed any more.
Records are copied as they are, save the host's name, which lies outside of every digest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rfc8785

from bench.parity.levels.fidelity import LEAST_SQNR_DB, rounds_by_intent
from bench.parity.reference import Reference
from bench.parity.report import ParityReport
from bench.parity.spec import ParitySpec
from bench.run_folder import RunFolder
from bench.timing.measurement import Measurement
from bench.timing.spec import BenchSpec
from bench.verdict.judge import Row, Verdict
from bench.verdict.limits import Limits
from export import registry
from export.artifact import RECORD, Artifact, open_artifact
from export.environment import environment
from export.errors import RecordError, UserError
from export.files import digest_files
from export.record import digest, encode, parse, read, write
from export.registry import BASELINE
from export.signature import Signature
from export.version import VERSION
from pipeline.bundle.bom import write_bom
from pipeline.bundle.evidence import judged_verdict
from pipeline.bundle.golden import write_golden
from pipeline.bundle.model_card import write_model_card
from pipeline.bundle.needs import main_file, needs_of
from pipeline.bundle.pack import ARCHIVE_NAME, write_archive
from pipeline.bundle.record import Bundle, Claim, ClaimedLatency, GoldenCall, Manifest, Shipped
from pipeline.bundle.serving import write_serving
from pipeline.bundle.workload import write_workload
from pipeline.run import RecipeRecord
from pipeline.training.checkpoint import Checkpoint
from pipeline.verifier.contents import BUNDLE
from pipeline.verifier.files import MANIFEST
from pipeline.verifier.outcome import Refused, Unable
from pipeline.verifier.running import Bounds, run_artifact
from pipeline.verifier.verify import verify_contents

WORKLOAD = "workload.onnx"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What goes into a bundle besides what the verdict says."""

    also: tuple[str, ...] = ()
    """Artifacts to ship beside the winner and ONNX."""
    storage_uri: str | None = None
    """Where KServe finds the Triton repository; None: on a volume claim of the model's name."""
    base_image: str | None = None
    """The image that the bundle's Dockerfile begins with; None: Triton's, of the release that was tested."""


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """An ONNX artifact rewritten for an older runtime, and the parity report that it is still the model."""

    folder: Path
    artifact: Artifact
    report: ParityReport
    target_ort: str


@dataclass(frozen=True, kw_only=True)
class _Source:
    """One artifact that is to ship, with the row of the verdict that lets it."""

    row: Row
    folder: Path
    artifact: Artifact
    report: ParityReport
    lowered: bool = False


def make(run: RunFolder, folder: Path, key: str, choice: Choice, lowered: Lowered | None = None) -> Manifest:
    """Fill ``folder`` with the bundle of ``run``, manifest last.

    Raises:
        UserError: the verdict is not good, or an artifact that is asked for may not ship.
        RecordError: something of the run changed since it was judged.
    """
    verdict, recipe = judged_verdict(run), read(RecipeRecord, run.recipe_record)
    rows = chosen_rows(verdict, choice.also)
    onnx = next((row.name for row in rows if _is_onnx(row)), None)
    sources = [_source(run, row, lowered if row.name == onnx else None) for row in rows]
    for source in sources:
        _copy_records_of(run, source, folder)
    shipped = tuple(
        _shipped(run, recipe, source, _copy_files(source, folder, at_root=source.row.name == onnx))
        for source in sources
    )
    _copy_chain(run, folder)
    default = next((number for number, source in enumerate(sources) if source.row.name == onnx), 0)
    signature = sources[default].artifact.signature
    limits, bench = recipe.setting("limits", Limits), recipe.setting("bench", BenchSpec)
    spreads = [spread for source in sources for spread in source.report.spreads]
    golden = tuple(write_golden(run, folder, signature, sources[default].report.thresholds, spreads))
    write_workload(folder / WORKLOAD)
    bundle = Bundle(
        name=recipe.name,
        version=VERSION,
        licence=recipe.licence,
        default=shipped[default].name,
        winner=str(verdict.winner),
        shipped=shipped,
        signature=signature,
        batch=signature.batch,
        rows_together=not read(Reference, run.reference_record).own_rows,
        golden=golden,
        timed_rows=_timed_rows(shipped[default], signature, golden, limits, bench),
        workload=WORKLOAD,
        limits=limits,
        target_ort=lowered.target_ort if lowered else None,
        verdict_sha256=digest(verdict),
        environment=environment(),
    )
    write_serving(folder, bundle, choice.storage_uri, choice.base_image)
    write_archive(folder / ARCHIVE_NAME)
    claimed = tuple(replace(artifact, claim=_claim(folder, bundle, artifact)) for artifact in shipped)
    bundle = replace(bundle, shipped=claimed)
    write(folder / BUNDLE, bundle)
    write_model_card(folder / "README.md", bundle, verdict, {source.row.name: source.report for source in sources})
    write_bom(folder, bundle, verdict, read(Checkpoint, folder / "records" / "checkpoint.json"))
    manifest = Manifest(key=key, files=digest_files(folder, (path for path in folder.rglob("*") if path.is_file())))
    write(folder / MANIFEST, manifest)
    try:
        verify_contents(folder)
    except (Refused, Unable) as error:
        raise RecordError(f"the bundle does not pass its own check, nothing is shipped: {error}") from error
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
    if not _is_onnx(rows[verdict.winner]):
        onnx = [row for row in verdict.rows if _is_onnx(row) and row.shippable]
        names += [
            row.name for row in sorted(onnx, key=lambda row: registry.get(row.backend or row.name).deployment_rank)
        ][:1]
    for name in also:
        if name not in rows or not rows[name].shippable or name == BASELINE:
            eligible = ", ".join(row.name for row in verdict.rows if row.shippable and row.name != BASELINE)
            raise UserError(f"{name!r} may not ship; {eligible} may")
    return [rows[name] for name in dict.fromkeys([*names, *also])]


def onnx_row(verdict: Verdict) -> Row | None:
    """The row whose file becomes ``model.onnx``; None if no ONNX may ship."""
    return next((row for row in chosen_rows(verdict) if _is_onnx(row)), None)


def _is_onnx(row: Row) -> bool:
    """Whether a row's artifact is an ONNX file; one that is built bears its backend's name, bound to no device."""
    backend = row.backend or row.name
    return backend in registry.names() and registry.get(backend).serving_form == "onnx"


def _source(run: RunFolder, row: Row, lowered: Lowered | None) -> _Source:
    """An artifact and its report, if they are those that the verdict judged; or the lowered ones in their place."""
    if lowered is not None:
        return _Source(row=row, folder=lowered.folder, artifact=lowered.artifact, report=lowered.report, lowered=True)
    folder = run.artifact(row.name)
    artifact, report = open_artifact(folder), read(ParityReport, run.parity_report(row.name))
    if (digest(artifact), digest(report)) != (row.artifact_sha256, row.parity_sha256):
        raise RecordError(f"{row.name} is not what the verdict judged: run its recipe again")
    return _Source(row=row, folder=folder, artifact=artifact, report=report)


def _copy_files(source: _Source, folder: Path, *, at_root: bool) -> str:
    """The artifact's files: ONNX at the root of the bundle, others with their record in ``artifacts/<name>/``.

    Returns the path of the one that is loaded.
    """
    place = folder if at_root else folder / "artifacts" / source.artifact.name
    for file in source.artifact.files:
        target = place / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.folder / file.path, target)
    if not at_root:
        _write_bare(place / RECORD, encode(source.artifact))
    return (place / main_file(source.artifact)).relative_to(folder).as_posix()


def _write_bare(target: Path, data: bytes) -> None:
    """A record's bytes without the name of the host that made it, which lies outside of its digest."""
    fields = parse(data)
    if "observed" in fields:
        fields["observed"]["host"] = ""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(rfc8785.dumps(fields))


def _copy_records_of(run: RunFolder, source: _Source, folder: Path) -> None:
    """The records of one artifact: itself, its parity, its raw measurement if there is one."""
    records, name = folder / "records", source.row.name
    _write_bare(records / "artifacts" / f"{name}.json", encode(source.artifact))
    _write_bare(records / "parity" / f"{name}.json", encode(source.report))
    _copy_measurement(run, records, name)


def _copy_chain(run: RunFolder, folder: Path) -> None:
    """The chain from the verdict to the recipe, and the raw measurements of the baseline and of the session."""
    records = folder / "records"
    for source, name in (
        (run.recipe_record, "recipe.json"),
        (run.checkpoint_record, "checkpoint.json"),
        (run.program_record, "program.json"),
        (run.reference_record, "reference.json"),
        (run.verdict, "verdict.json"),
    ):
        if source.exists():
            _write_bare(records / name, source.read_bytes())
    _copy_measurement(run, records, BASELINE)


def _copy_measurement(run: RunFolder, records: Path, name: str) -> None:
    measurement = run.measurement(name)
    if measurement.exists():
        _write_bare(records / "measurements" / f"{name}.json", measurement.read_bytes())


def _shipped(run: RunFolder, recipe: RecipeRecord, source: _Source, file: str) -> Shipped:
    """What ``bundle.json`` says of an artifact, but for the claim; ``file`` is the one that is loaded."""
    artifact, report, name = source.artifact, source.report, source.row.name
    measured = run.measurement(name)
    cold_starts = read(Measurement, measured).cold_starts if measured.exists() else ()
    return Shipped(
        name=name,
        backend=artifact.backend,
        runtime=registry.get(artifact.backend).runtime,
        precision=artifact.precision,
        file=file,
        size_bytes=artifact.size_bytes,
        options=report.options,
        tested_sizes=report.tested_sizes,
        parity=report.status,
        allow_no_reference=recipe.setting("parity", ParitySpec).allow_no_reference,
        least_sqnr_db=LEAST_SQNR_DB if rounds_by_intent(artifact.precision) else None,
        needs=needs_of(artifact, source.folder, report.options),
        peak_bytes=max((start.peak_bytes or 0 for start in cold_starts), default=0),
        artifact_sha256=digest(artifact),
        parity_sha256=digest(report),
        lowered_from=source.row.artifact_sha256 if source.lowered else None,
        claim=None,
    )


def _timed_rows(
    default: Shipped, signature: Signature, golden: Sequence[GoldenCall], limits: Limits, bench: BenchSpec
) -> tuple[int, ...]:
    """The batch sizes of the recipe's own measurement and of its limits, as far as parity tested them; those of golden
    calls where functions draw whole calls, which cannot be cut.
    """
    batch = signature.batch
    if batch is None:
        return (1,)
    wanted = sorted({*bench.batch_rows, limits.batch_rows})
    if signature.has_draw_functions:
        first = golden[0].sizes
        whole = {call.sizes[batch] for call in golden if call.sizes == first | {batch: call.sizes[batch]}}
        return tuple(rows for rows in wanted if rows in whole) or (first[batch],)
    tested = default.tested_sizes.get(batch)
    inside = tuple(rows for rows in wanted if tested is None or tested.min <= rows <= tested.max)
    return inside or ((tested.min,) if tested else (1,))


def _claim(folder: Path, bundle: Bundle, shipped: Shipped) -> Claim:
    """What the check itself measures here: it must accept the artifact before anybody else is asked to."""
    fields: dict[str, Any] = json.loads(encode(bundle))  # as the check reads it
    try:
        run = run_artifact(folder, fields, next(s for s in fields["shipped"] if s["name"] == shipped.name), Bounds())
    except (Refused, Unable) as error:
        message = f"{shipped.name} does not pass its own golden calls, nothing is shipped: {error}"
        raise RecordError(message) from error
    return Claim(
        cold_s=run["cold_s"],
        peak_bytes=run["peak_bytes"],
        latency=tuple(
            ClaimedLatency(
                batch_rows=figure["batch_rows"], median_s=figure["median_s"], workload_s=figure["workload_s"]
            )
            for figure in run["latency"]
        ),
    )
