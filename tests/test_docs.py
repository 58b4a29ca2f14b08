"""The documentation's commands, run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, environ


@pytest.mark.slow
def test_the_page_on_shipping_works_as_it_stands(built: Path, tmp_path: Path) -> None:
    """Its blocks, those lines that begin with ``$``, in one folder, on a finished run."""
    pytest.importorskip("mlflow", reason="extra: pip install 'torchstone[mlflow]'")
    shutil.copytree(built.parent, tmp_path / "artifacts" / "seed", symlinks=True)
    page = (ROOT / "docs" / "shipping.md").read_text()
    blocks = [block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if block.startswith("$")]
    assert len(blocks) == 4
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for block in blocks:
        for command in re.split(r"(?m)^\$ ", block)[1:]:
            text = re.sub(r"(?m)^kubectl .*$", "", command)
            done = subprocess.run(
                ["bash", "-euc", text],
                cwd=tmp_path,
                env=environ(PATH=path),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    assert "s3://models/seed" in (tmp_path / "serving" / "current" / "serving" / "kserve.yaml").read_text()
