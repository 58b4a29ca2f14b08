"""``model.onnx`` for a server whose ONNX Runtime is older than the file: lowered, then run in that very version.

Which opset and IR version a runtime loads is not looked up but tried, in a temporary environment with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.parity.levels.fidelity import judged_by_metric
from bench.parity.report import ParityReport
from bench.parity.run import ParityRun, differs
from bench.run_folder import RunFolder
from bench.verdict.judge import Row
from export.artifact import RECORD, open_artifact
from export.backend import LoadOptions
from export.device import HOST, device
from export.errors import UserError
from export.files import digest_files
from export.record import observed, read, write
from pipeline.bundle.needs import distribution, main_file
from pipeline.bundle.pack import ARCHIVE_NAME
from pipeline.bundle.writer import Lowered
from pipeline.run import RecipeRecord, workspace_of

_OLDEST_OPSET = 13
_NUMPY_2 = (1, 19)
"""The first ONNX Runtime that was built for NumPy 2."""
_LIBRARIES_FROM = (1, 21)
"""The first onnxruntime-gpu that names the packages of CUDA's libraries as its extras."""
_LOAD = """
import sys, onnxruntime
model, provider = sys.argv[1:]
onnxruntime.set_default_logger_severity(4)
if provider != "CPUExecutionProvider" and hasattr(onnxruntime, "preload_dlls"):
    onnxruntime.preload_dlls()
session = onnxruntime.InferenceSession(model, providers=[provider])
if provider not in session.get_providers():
    sys.exit(f"this onnxruntime does not open {provider} here")
"""


@dataclass(frozen=True)
class Target:
    """A Python with NumPy and one version of ONNX Runtime in it, and without Torchstone."""

    python: Path
    version: str
    provider: str = HOST.provider

    def loads(self, model: Path) -> str | None:
        """Why it does not load the file; None if it does."""
        process = subprocess.run(
            [str(self.python), "-I", "-c", _LOAD, str(model), self.provider],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        return None if process.returncode == 0 else process.stderr.strip().rpartition("\n")[2][:300]

    def accepts(self, bundle: Path) -> str | None:
        """Why the bundle's own check refuses it there; None if it accepts."""
        command = [str(self.python), "-I", str(bundle / ARCHIVE_NAME), str(bundle), "--json", "--no-speed"]
        process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        if process.returncode == 0:
            return None
        try:
            return str(json.loads(process.stdout)["reason"])
        except (ValueError, KeyError):
            return process.stderr.strip()[-300:]


@contextmanager
def temporary_environment(version: str, options: LoadOptions) -> Iterator[Target]:
    """An environment with that version of ONNX Runtime, in the distribution that an artifact of these options needs.

    Raises:
        UserError: it cannot be installed.
    """
    wanted = requirements(version, options)
    with tempfile.TemporaryDirectory(prefix="torchstone-target-") as folder:
        python = Path(folder) / "bin" / "python"
        for command in (
            [sys.executable, "-m", "venv", folder],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                why = (done.stderr or done.stdout).strip()[-300:]
                raise UserError(f"{distribution(options)} {version} cannot be installed here: {why}")
        yield Target(python=python, version=version, provider=device(options.device).provider)


def requirements(version: str, options: LoadOptions) -> list[str]:
    """What pip installs: for a GPU the CUDA libraries too, which lie in packages of their own (from 1.21 on)."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    where = device(options.device)
    extras = f"[{where.kind},cudnn]" if where.asynchronous and numbers >= _LIBRARIES_FROM else ""
    runtime = f"{distribution(options)}{extras}=={version}"
    return [runtime, "numpy<2" if numbers < _NUMPY_2 else "numpy"]


def lower(run: RunFolder, row: Row, folder: Path, target: Target) -> Lowered | None:
    """The ONNX artifact as the target loads it, written into ``folder``; None if it loads the file as it is.

    Raises:
        UserError: nothing that the file can be lowered to is loaded there, or it is not the model any more.
    """
    source = run.artifact(row.name)
    artifact = open_artifact(source)
    original = source / main_file(artifact)
    refused = target.loads(original)
    if refused is None:
        return None
    if judged_by_metric(artifact):
        raise UserError(
            f"{row.name} cannot be lowered: it is judged by the recipe's metric, which would have to be measured"
        )
    if len(artifact.files) > 1:
        raise UserError(
            f"{row.name} keeps its weights in a file beside it, and such models are not lowered yet: {refused}"
        )
    started = time.monotonic()
    path = folder / main_file(artifact)
    for opset, ir_version in _candidates(original):
        if (why := _convert(original, path, opset, ir_version)) is None and (refused := target.loads(path)) is None:
            break
        refused = why or refused
    else:
        raise UserError(f"no form of {row.name} is loaded by onnxruntime {target.version}: {refused}")
    facts = artifact.facts | {
        "opset": str(opset),
        "ir_version": str(ir_version),
        "lowered_for": f"onnxruntime {target.version}",
    }
    lowered = replace(
        artifact, files=digest_files(folder, [path]), facts=facts, observed=observed(time.monotonic() - started)
    )
    write(folder / RECORD, lowered)
    before = read(ParityReport, run.parity_report(row.name))
    workspace = workspace_of(run, read(RecipeRecord, run.recipe_record))
    recheck = ParityRun.of(run, before.spec).judge(folder, before.options, workspace, before.key)
    if (why := differs(recheck, before, lowered)) is not None or not isinstance(recheck, ParityReport):
        raise UserError(f"{row.name} lowered to opset {opset} is not the model any more: {why}")
    return Lowered(folder=folder, artifact=lowered, report=recheck, target_ort=target.version)


def _candidates(path: Path) -> Iterator[tuple[int, int]]:
    """Opset and IR version, the newest first: every opset with the IR version that it was released with."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    for lower_opset in range(opset, _OLDEST_OPSET - 1, -1):
        released = onnx.helper.OP_SET_ID_VERSION_MAP[("ai.onnx", lower_opset)]
        yield lower_opset, min(released, model.ir_version)


def _convert(source: Path, target: Path, opset: int, ir_version: int) -> str | None:
    """Write the model at another opset; why it cannot be, if it cannot."""
    import onnx
    from onnx import version_converter

    model = onnx.load(str(source))
    now = next(entry.version for entry in model.opset_import if entry.domain == "")
    try:
        if opset != now:
            model = version_converter.convert_version(model, opset)
        model.ir_version = ir_version
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # noqa: BLE001 - the converter raises RuntimeError, the checker its own; each means no
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(target))
    return None
