"""A backend added from outside, by one file and an entry point: its row, its bundle, its check, its tuning.

And what a recheck keeps of the first check, shown by a second backend of the same file that needs the model's source.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.parity.calibrate import Calibration
from bench.parity.equivalent import EquivalentVariant, thresholds
from bench.parity.report import ParityReport
from bench.parity.run import ParityRun
from bench.run_folder import RunFolder
from export import registry
from export.artifact import RECORD, Artifact
from export.backend import LoadOptions
from export.record import digest, observed, read, write
from export.worker import Failed, Workspace
from pipeline.run import RecipeRecord, workspace_of
from tests.conftest import environ, pipeline
from tests.pipeline.conftest import NET, RECIPE, latest

PLUGIN = '''
"""Traced TorchScript, not frozen."""

from dataclasses import dataclass

from export.backend import Backend
from export.device import device


@dataclass(frozen=True, kw_only=True)
class Traced(Backend):
    exporter: str = "trace"
    file: str = "model.ts"
    deployment_rank: int = 5

    def build(self, source, folder):
        import torch
        from export.arrays import to_torch

        example = source.signature.example(source.signature.example_sizes(), source.seed)
        module = source.module()
        traced = torch.jit.trace(module, tuple(to_torch(array) for array in example.values()))
        traced.save(str(folder / self.file))
        return {"form": "trace"}

    def load(self, artifact, folder, options, module):
        import torch
        from export.program import quiet
        from export.runtimes.torch import TorchSession

        with quiet():
            graph = torch.jit.load(str(folder / self.file), map_location=device(options.device).torch_name)
        return TorchSession(lambda *tensors: (graph(*tensors),), options)


class Leaky(Traced):
    def load(self, artifact, folder, options, module):
        import net  # the model's own source

        return super().load(artifact, folder, options, module)


BACKENDS = (Traced(name="traced"), Leaky(name="leaky"))
'''
ENTRY_POINTS = "[torchstone.backends]\ntrial = trial_backend:BACKENDS\n"
PLUGIN_RECIPE = RECIPE.replace('("eager", "torchscript", "onnx")', '("eager", "traced")')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``pip install`` leaves it: the module, and its metadata."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "trial_backend.py").write_text(PLUGIN)
    metadata = folder / "trial_backend-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: trial-backend\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


@pytest.fixture(scope="module")
def project(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cheap recipe with the trial backend, run to its end."""
    folder = tmp_path_factory.mktemp("plugged")
    (folder / "cheap.py").write_text(PLUGIN_RECIPE)
    (folder / "net.py").write_text(NET)
    done = pipeline("cheap.py", cwd=folder, PYTHONPATH=_path(site))
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "table.txt").write_text(done.stdout)
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plug-in in this process and in its children."""
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    registry.registered.cache_clear()
    yield
    registry.registered.cache_clear()


def _path(site: Path) -> str:
    return f"{site}:{environ()['PYTHONPATH']}"


def _command(name: str, *arguments: str | Path, cwd: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"pipeline.{name}", *map(str, arguments)],
        cwd=cwd, env=environ(PYTHONPATH=_path(site)), capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_it_has_its_row_and_wins(project: Path) -> None:
    row = next(line for line in (project / "table.txt").read_text().splitlines() if "★" in line)
    assert row.split()[1] == "traced"
    assert row.split()[-1] == "winner"


def test_its_bundle_is_accepted_by_the_check_with_the_plug_in_alone(project: Path, site: Path) -> None:
    bundle = latest(project) / "bundle"
    (shipped,) = json.loads((bundle / "bundle.json").read_bytes())["shipped"]
    assert (shipped["name"], shipped["file"]) == ("traced", "artifacts/traced/model.ts")
    done = _command("verify", bundle, "--trust", "--no-speed", cwd=project, site=site)
    assert done.returncode == 0, done.stdout + done.stderr
    without = subprocess.run(
        [sys.executable, "-m", "pipeline.verify", bundle, "--trust", "--no-speed"],
        cwd=project, env=environ(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert without.returncode != 0
    assert "'traced'" in without.stdout + without.stderr


def test_it_is_tuned(project: Path, site: Path) -> None:
    done = _command("tune", "cheap", "--processes", "2", "--threads", "2", cwd=project, site=site)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (latest(project) / "tuning" / "traced.json").exists()


def test_without_the_plug_in_its_name_is_unknown(project: Path) -> None:
    done = pipeline("cheap.py", cwd=project)
    assert done.returncode == 2
    assert "got 'traced'" in done.stderr


def test_a_changed_plug_in_builds_anew(project: Path, site: Path, tmp_path: Path) -> None:
    changed = tmp_path / "site"
    shutil.copytree(site, changed)
    (changed / "trial_backend.py").write_text(PLUGIN + "# a fix\n")
    copy = tmp_path / "project"
    shutil.copytree(project, copy, symlinks=True)
    for place, reused in ((site, True), (changed, False)):
        done = pipeline("cheap.py", "--only", "build", cwd=copy, PYTHONPATH=_path(place))
        assert "build    eager: reused" in done.stdout, done.stdout + done.stderr
        assert ("build    traced: reused" in done.stdout) is reused


def _recheck(run: RunFolder, artifact: Path, workspace: Workspace) -> ParityReport | Failed:
    before = read(ParityReport, run.parity_report("traced"))
    return ParityRun.of(run, before.spec).judge(artifact, LoadOptions(threads_count=2), workspace, "k")


@pytest.fixture
def run(project: Path, tmp_path: Path, installed: None) -> RunFolder:
    """A copy of the run."""
    return RunFolder(Path(shutil.copytree(latest(project), tmp_path / "run")))


def _workspace(run: RunFolder, record: RecipeRecord | None = None) -> Workspace:
    return workspace_of(run, record or read(RecipeRecord, run.recipe_record))


def test_a_recheck_hides_the_models_source(run: RunFolder, project: Path) -> None:
    leaky = run.artifact("traced").parent / "leaky"
    shutil.copytree(run.artifact("traced"), leaky)
    write(leaky / RECORD, replace(read(Artifact, leaky / RECORD), backend="leaky"))
    hiding = _workspace(run)
    end = _recheck(run, leaky, hiding)
    assert isinstance(end, Failed)
    assert "net is hidden" in end.cause
    # The twin: nothing hidden, and the source where Python finds it.
    seeing = replace(hiding, hidden=(), folder=run.path / "seeing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{project}:{sys.path[0]}")
        report = _recheck(run, leaky, seeing)
    assert isinstance(report, ParityReport), report
    assert report.status == "pass"


def test_a_recheck_judges_by_the_calibrations_variants(run: RunFolder) -> None:
    before = read(ParityReport, run.parity_report("traced"))
    plain = _recheck(run, run.artifact("traced"), _workspace(run))
    assert isinstance(plain, ParityReport)
    assert plain.thresholds == before.thresholds
    parity = ParityRun.of(run, before.spec)
    wide = EquivalentVariant(
        kind="rounding", number=1, output=plain.outputs[0].name, rms_ratio=3.0, peak_ratio=9.0, slope_ulps=0.0
    )
    calibration = Calibration(
        key="k",
        reference_sha256=digest(parity.reference),
        variants=(wide,),
        would_fail_count=1,
        thresholds=thresholds(before.spec, (wide,)),
        sensitivities=(),
        observed=observed(0.0),
    )
    write(run.calibration, calibration)
    report = _recheck(run, run.artifact("traced"), _workspace(run))
    assert isinstance(report, ParityReport)
    assert report.thresholds.max_rms_ratio > plain.thresholds.max_rms_ratio
    assert report.thresholds.raised is not None
    # The twin: a calibration by another reference says nothing of this one.
    write(run.calibration, replace(calibration, reference_sha256="f" * 64))
    foreign = _recheck(run, run.artifact("traced"), _workspace(run))
    assert isinstance(foreign, ParityReport)
    assert foreign.thresholds == plain.thresholds


def test_a_recheck_keeps_the_runs_process_limits(run: RunFolder) -> None:
    record = read(RecipeRecord, run.recipe_record)
    settings = record.settings | {"process": record.settings["process"] | {"memory_bytes": 50_000_000}}
    end = _recheck(run, run.artifact("traced"), _workspace(run, replace(record, settings=settings)))
    assert isinstance(end, Failed)
    assert end.status == "out-of-memory"
    # The twin: within the recipe's own limits it answers.
    assert isinstance(_recheck(run, run.artifact("traced"), _workspace(run)), ParityReport)
