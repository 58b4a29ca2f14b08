"""The whole story: what a run leaves, what a rerun repeats, and what a broken part costs."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.verdict.judge import Verdict
from export.record import read
from pipeline.commands.named import find_run
from tests.conftest import BUILT, environ, importing_torch_s, pipeline, within_cpu_s
from tests.pipeline.conftest import NET, latest


def content(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.suffix != ".log"
    }


def test_a_run_leaves_what_the_design_lays_out(built: Path) -> None:
    for name in (
        "recipe.json",
        "verdict.json",
        "report.html",
        "checkpoint/weights.safetensors",
        "checkpoint/metrics.jsonl",
    ):
        assert (built / name).is_file()
    assert {path.name for path in (built / "artifacts").iterdir()} == {
        "eager", "torchscript", "exported", "compile", "aotinductor", "onnx",
    }  # fmt: skip
    assert not [path for path in built.rglob(".*") if path.name != ".lock"], "nothing half-made stays"
    assert not list((built / "log").glob("*.sh")), "reproduce scripts are for failures"
    verdict = read(Verdict, built / "verdict.json")
    assert verdict.good
    assert verdict.winner is not None
    assert built.parent.joinpath("latest").is_symlink()
    assert built.name == read_key(built)[:12]


def read_key(run: Path) -> str:
    from export.record import key_of

    fields = json.loads((run / "recipe.json").read_bytes())
    fields.pop("schema")
    return key_of(recipe=fields)


def test_a_rerun_repeats_nothing_and_is_quick(built: Path) -> None:
    before = content(built)
    with within_cpu_s(3 * importing_torch_s()):
        done = pipeline(*BUILT, "--out", built.parents[1])
    assert done.returncode == 0
    for stage in ("train    reused", "capture  reused", "measure  measured "):
        assert stage in done.stdout
    assert done.stdout.count("reused") >= 14
    assert content(built) == before


def test_json_is_the_verdict_and_nothing_else(built: Path) -> None:
    done = pipeline(*BUILT, "--out", built.parents[1], "--json")
    assert done.stdout.encode().strip() == (built / "verdict.json").read_bytes()
    assert pipeline(*BUILT, "--out", built.parents[1], "--quiet").stdout == ""


@pytest.mark.slow
def test_a_bench_setting_measures_anew_and_repeats_nothing_else(mine: Path) -> None:
    done = pipeline("cheap.py", "--bench.rounds-count", "6", cwd=mine)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [
        line for line in lines if line.startswith(("train", "capture", "build", "parity")) and "reused" not in line
    ] == []
    assert "candidates in 2 fresh processes" in done.stdout
    assert len([path for path in (mine / "artifacts" / "cheap").iterdir() if not path.is_symlink()]) == 2


@pytest.mark.slow
def test_an_edited_helper_rebuilds_everything(mine: Path) -> None:
    before = latest(mine)
    (mine / "net.py").write_text(NET.replace("torch.tanh", "torch.sin"))
    done = pipeline("cheap.py", "--only", "parity", cwd=mine)
    assert done.returncode == 0, done.stderr
    assert "reused" not in done.stdout
    runs = {path for path in (mine / "artifacts" / "cheap").iterdir() if not path.is_symlink()}
    (other,) = runs - {before}
    assert (other / "artifacts" / "onnx" / "model.onnx").read_bytes() != (
        before / "artifacts" / "onnx" / "model.onnx"
    ).read_bytes()


def test_an_altered_file_is_noticed_and_made_again(mine: Path) -> None:
    model = latest(mine) / "artifacts" / "onnx" / "model.onnx"
    good = model.read_bytes()
    model.unlink()
    model.write_bytes(good.replace(b"batch", b"botch"))
    done = pipeline("cheap.py", "--only", "build", cwd=mine)
    assert done.returncode == 0
    assert "model.onnx is not the file that was recorded" in done.stdout
    assert b"botch" not in model.read_bytes()


def test_artifacts_run_where_the_source_is_gone(mine: Path, tmp_path: Path) -> None:
    run = latest(mine)
    for name in ("cheap.py", "net.py"):
        (mine / name).unlink()
    code = (
        "import sys\nfrom pathlib import Path\nfrom export.registry import LoadOptions, load\n"
        "run = load(Path(sys.argv[1]), LoadOptions())\nrun(run.signature.example({'batch': 5}, seed=0))\n"
        "assert not {'net', 'cheap', 'pipeline'} & set(sys.modules)"
    )
    for name in ("torchscript", "onnx"):
        folder = run / "artifacts" / name
        subprocess.run([sys.executable, "-c", code, folder], check=True, cwd=tmp_path, env=environ())


def test_the_parity_child_cannot_import_the_recipe(finished: Path) -> None:
    from pipeline.console import Console
    from pipeline.find import find
    from pipeline.run import open_run

    found = find(str(finished / "cheap.py"))
    with open_run(found, "cpu", finished / "elsewhere", Console(quiet=True)) as run:
        assert run.workspace.hidden == ("cheap", "net", "pipeline")


def test_a_failed_row_leaves_its_reason_its_log_and_a_script_that_repeats_it(mine: Path) -> None:
    (mine / "net.py").write_text(
        NET.replace("torch.tanh(self.fc(x))", "torch.special.gammainc(torch.ones(1), self.fc(x).abs() + 1)")
    )
    done = pipeline("cheap.py", cwd=mine)
    assert done.returncode == 1, done.stdout + done.stderr
    run = latest(mine)
    verdict = read(Verdict, run / "verdict.json")
    row = next(row for row in verdict.rows if row.name == "onnx")
    assert not row.built
    assert row.reasons[0].startswith(
        "build: failed: this model cannot be exported so: not by program: "
        "the ONNX exporter has no translation of prims.igamma (net.py:"
    )
    assert row.log is not None
    raw = (run / row.log).read_text()
    assert "Traceback" in raw
    assert "No ONNX function found for <OpOverload(op='prims.igamma'" in raw
    assert row.reproduce is not None
    again = subprocess.run(["sh", run / row.reproduce], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "igamma" in again.stderr
    assert {one.name for one in verdict.rows if one.shippable} == {"torchscript"}
    page = (run / "report.html").read_text()
    assert "What failed" in page
    assert '<details class="backend" data-backend="onnx" open>' in page
    assert row.reproduce in page
    assert raw.splitlines()[-1][:40] in html.unescape(page)


def test_a_recipe_that_breaks_in_training_is_the_users_to_mend(mine: Path) -> None:
    text = (mine / "cheap.py").read_text()
    (mine / "cheap.py").write_text(text.replace("time.sleep(0.02)", "raise RuntimeError('no such loss')"))
    done = pipeline("cheap.py", cwd=mine)
    assert done.returncode == 2
    said = r"error: training failed: RuntimeError: no such loss \(cheap\.py:\d+: .*\)\nThe whole story: "
    assert re.match(said, done.stderr), done.stderr
    assert "Traceback" in Path(done.stderr.split("story: ")[1].strip()).read_text()


@pytest.mark.slow
def test_a_model_that_cannot_be_traced_still_gets_what_a_script_carries(mine: Path) -> None:
    branch = "(torch.tanh(self.fc(x)) if bool(x.sum() > 0) else -self.fc(x))"
    (mine / "net.py").write_text(NET.replace("torch.tanh(self.fc(x))", branch))
    backends = ("eager", "torchscript", "exported", "onnx")
    done = pipeline("cheap.py", "--only", "parity", "--backends", *backends, cwd=mine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exported: failed: " in done.stdout
    assert re.search(r"exported: failed: .*net\.py", done.stdout)
    assert "by script, not by program" in done.stdout
    for backend in ("torchscript", "onnx"):
        assert f"parity   {backend}: pass" in done.stdout


@pytest.mark.slow
def test_a_tracer_that_crashes_costs_its_rows_and_not_the_run(mine: Path) -> None:
    """The forward() kills the process, but only under the tracer."""
    deadly = "(torch.tanh(self.fc(x)) if not torch.compiler.is_exporting() else __import__('os').abort())"
    (mine / "net.py").write_text(NET.replace("torch.tanh(self.fc(x))", deadly))
    done = pipeline("cheap.py", "--only", "parity", "--backends", "eager", "exported", "onnx", cwd=mine)
    assert done.returncode == 0, done.stdout + done.stderr
    reason = "the model cannot be traced by torch.export: its process crashed: killed by SIGABRT"
    assert f"capture  {reason}" in done.stdout
    assert f"exported: failed: {reason}" in done.stdout
    assert f"by trace, not by program ({reason})" in done.stdout
    assert "parity   onnx: pass" in done.stdout


def test_a_run_is_found_by_folder_by_recipe_and_by_key(mine: Path) -> None:
    from export.errors import UserError

    run, out = latest(mine), mine / "artifacts"
    places = [find_run(text, out).path for text in (str(run), "cheap", f"cheap@{run.name[:5]}")]
    assert places == [run, run, run]
    with pytest.raises(UserError, match=r"no run 'seed' under .*: .*-m pipeline\.all seed makes one"):
        find_run("seed", out)
    with pytest.raises(UserError, match="no run 'cheap@zzz'"):
        find_run("cheap@zzz", out)
