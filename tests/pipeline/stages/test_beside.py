"""The model's own answers are made beside the builds."""

from __future__ import annotations

from pathlib import Path

from bench.parity.reference import Reference
from bench.run_folder import RunFolder
from export.artifact import read_artifact
from export.record import read
from tests.conftest import pipeline
from tests.pipeline.conftest import NET, RECIPE, latest

ENDS_ITS_PROCESS = NET.replace(
    "        return torch.tanh(self.fc(x))\n",
    """        if not torch.compiler.is_compiling() and bool((x == 0).all()):
            os._exit(7)
        return torch.tanh(self.fc(x))
""",
).replace("import torch\n", "import os\nimport torch\n", 1)
"""Where it is called with zeros, which parity does and no build."""


def test_the_models_answers_do_not_wait_for_the_slowest_exporter(finished: Path) -> None:
    files = RunFolder(latest(finished))
    assert read(Reference, files.reference_record).observed.at <= read_artifact(files.artifact("onnx")).observed.at


def test_a_model_that_has_no_answers_ends_the_run_and_leaves_what_was_built(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(ENDS_ITS_PROCESS)
    recipe = RECIPE.replace('("eager", "torchscript", "onnx")', '("eager", "exported")').replace(
        "epochs=25", "epochs=1"
    )
    (tmp_path / "cheap.py").write_text(recipe)
    done = pipeline("cheap.py", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "nothing can be held to this model: crashed: exit code 7" in done.stderr
    [run] = (tmp_path / "artifacts" / "cheap").iterdir()
    assert read_artifact(RunFolder(run).artifact("exported")).backend == "exported"
