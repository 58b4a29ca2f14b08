"""The verdict of a finished run, judged once more from its records: what ships follows from evidence."""

from __future__ import annotations

from collections.abc import Mapping

from bench.parity.report import ParityReport
from bench.parity.spec import ParitySpec
from bench.run_folder import RunFolder
from bench.timing.measurement import Measurement, SessionRecord
from bench.verdict.entry import entries
from bench.verdict.judge import Evidence, Failure, Requirements, Row, Verdict, judge
from bench.verdict.limits import Limits
from export.artifact import read_artifact
from export.errors import RecordError
from export.record import digest, read
from pipeline.recipe import required_of
from pipeline.run import RecipeRecord
from pipeline.training.checkpoint import Checkpoint


def judged_verdict(run: RunFolder) -> Verdict:
    """The verdict on disk, if it is the one that the run's records give.

    Raises:
        RecordError: it is not, or a record is missing or altered.
    """
    verdict, recipe = read(Verdict, run.verdict), read(RecipeRecord, run.recipe_record)
    required = Requirements(
        limits=recipe.setting("limits", Limits),
        metrics=read(Checkpoint, run.checkpoint_record).metrics,
        allow_no_reference=recipe.setting("parity", ParitySpec).allow_no_reference,
    )
    session = read(SessionRecord, run.session) if verdict.session_sha256 is not None else None
    evidence = _all_evidence(run, recipe, {row.name: row for row in verdict.rows})
    try:
        again = judge(digest(recipe), recipe.name, evidence, session, required)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # nonsense in valid records
        raise RecordError(
            f"the records in {run.path} do not hold together ({type(error).__name__}: {error}): "
            "run its recipe again, which makes anew what is damaged"
        ) from error
    if digest(again) != digest(verdict):
        raise RecordError(
            f"{run.verdict} is not what the records of the run say ({_difference(verdict, again)}): "
            "run its recipe again, which judges it anew"
        )
    return verdict


def _all_evidence(run: RunFolder, recipe: RecipeRecord, rows: Mapping[str, Row]) -> list[Evidence]:
    """What the records hold about every backend that the recipe asks for.

    Raises:
        RecordError: the verdict has no row for one.
    """
    backends = recipe.setting("backends", tuple[str, ...])
    required = required_of(backends, recipe.optional_setting("required", tuple[str, ...]))
    known = entries(backends, recipe.optional_setting("foreign", tuple[tuple[str, str], ...]) or ()).values()
    names = {entry.row(recipe.device): entry for entry in known}
    if missing := [name for name in names if name not in rows]:
        raise RecordError(f"{run.verdict} has no row for {missing[0]}: run its recipe again")
    return [_evidence(run, rows[name], entry.backend_name, entry.name in required) for name, entry in names.items()]


def _evidence(run: RunFolder, row: Row, backend: str, required: bool) -> Evidence:
    """What they hold about one row; a row whose last record is missing failed on the way to it."""
    return Evidence(
        name=row.name,
        backend=backend,
        required=required,
        artifact=read_artifact(run.artifact(row.name)) if row.built else None,
        parity=read(ParityReport, run.parity_report(row.name)) if row.parity is not None else None,
        measurement=read(Measurement, run.measurement(row.name)) if row.measurement_sha256 is not None else None,
        failure=_failure(row),
    )


def _failure(row: Row) -> Failure | None:
    """The step that did not end well: the first of the reasons, where one is missing of what the steps leave."""
    if row.built and row.parity is not None and row.log is None:
        return None
    step, _, cause = row.reasons[0].partition(": ") if row.reasons else ("", "", "")
    return Failure(step=step, cause=cause, log=row.log, reproduce=row.reproduce)


def _difference(verdict: Verdict, again: Verdict) -> str:
    """The first field that differs, of the rows the first field of the first row."""
    for row, judged in zip(verdict.rows, again.rows, strict=False):
        for name, value in vars(judged).items():
            if getattr(row, name) != value:
                return f"{row.name}: {name}"
    return next((name for name, value in vars(again).items() if getattr(verdict, name) != value), "observed")
