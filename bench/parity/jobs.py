"""The two jobs of the parity check, each in a process of its own: the reference, and one artifact's outputs.

The second runs without the model's source: what it proves is what a server will load.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.parity.cases import case_inputs, load_cases, save_cases
from export import backend as backends
from export.arrays import Array, to_torch
from export.backend import LoadOptions, Witness
from export.build import Source
from export.record import FileDigest, Observed, Record, digest_files, from_json, observed, write
from export.signature import Signature

if TYPE_CHECKING:
    from torch import nn

INPUTS, FLOAT64, EAGER = "inputs.safetensors", "float64.safetensors", "eager.safetensors"
SAMPLES = "samples.safetensors"
REFERENCE_RECORD = "reference.json"


@dataclass(frozen=True, kw_only=True)
class Reference(Record):
    """What lies in ``parity/reference/``: the inputs of every case, and the model's own answers to them."""

    SCHEMA: ClassVar[str] = "torchstone.reference/1"

    key: str
    checkpoint_sha256: str
    sizes: tuple[dict[str, int], ...]
    """Of each case."""
    files: tuple[FileDigest, ...]
    failure: str | None
    """Why the model has no float64 answer; None if it has."""
    observed: Observed


@dataclass(frozen=True, kw_only=True)
class ReferenceJob:
    """Answer every case with the source's module, in float64 and in float32."""

    source: Source
    signature: Signature
    sizes: tuple[dict[str, int], ...]
    samples: str | None
    """A safetensors file with rows of real inputs by name."""
    seed: int
    device: str
    key: str
    checkpoint_sha256: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class OutputsJob:
    """Answer every case with one artifact."""

    artifact: str
    """Its folder."""
    options: LoadOptions
    source: Source | None
    """Given to the eager backend alone."""
    inputs: str
    sizes: tuple[dict[str, int], ...]
    outputs: str
    """The file to write."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What ``outputs`` returns."""

    witness: Witness
    refusals: dict[str, str]
    """By case number: why the artifact did not answer it."""


def reference(payload: object) -> None:
    """Job: write inputs, float64 answers (on the CPU) and eager float32 answers (on the device)."""
    from safetensors.numpy import load_file

    job = from_json(ReferenceJob, payload)
    started = time.monotonic()
    folder = Path(job.folder)
    samples = load_file(job.samples) if job.samples else {}
    cases = [case_inputs(job.signature, sizes, samples, job.seed + i) for i, sizes in enumerate(job.sizes)]
    save_cases(folder / INPUTS, list(cases))
    module = job.source.module()
    save_cases(folder / EAGER, _answers(module, job.signature, cases, job.device, wide=False))
    failure = None
    try:
        save_cases(folder / FLOAT64, _answers(copy.deepcopy(module).double(), job.signature, cases, "cpu", wide=True))
    except Exception as error:  # noqa: BLE001 - custom operators refuse float64 in their own ways; the reason is recorded
        failure = f"the model does not run in float64: {type(error).__name__}: {error}"
    write(
        folder / REFERENCE_RECORD,
        Reference(
            key=job.key,
            checkpoint_sha256=job.checkpoint_sha256,
            sizes=job.sizes,
            files=digest_files(folder, folder.iterdir()),
            failure=failure,
            observed=observed(time.monotonic() - started),
        ),
    )


def outputs(payload: object) -> Outputs:
    """Job: load one artifact from disk, answer every case, write the answers."""
    job = from_json(OutputsJob, payload)
    runner = backends.load(Path(job.artifact), job.options, job.source.module if job.source else None)
    names = tuple(spec.name for spec in runner.signature.inputs)
    answers: list[Mapping[str, Array]] = []
    refusals = {}
    for index, inputs in enumerate(load_cases(Path(job.inputs), names, len(job.sizes))):
        try:
            answers.append(runner(inputs))
        except Exception as error:  # noqa: BLE001 - each runtime refuses in its own type; every refusal is reported
            refusals[str(index)] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            answers.append({})
    save_cases(Path(job.outputs), answers)
    return Outputs(witness=runner.witness(), refusals=refusals)


def _answers(
    module: nn.Module, signature: Signature, cases: list[Any], device: str, *, wide: bool
) -> list[Mapping[str, Array]]:
    """Named outputs of each case; ``wide`` feeds floating inputs in float64."""
    import torch

    from export.program import FlatModule

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    flat = FlatModule(module.to(device).eval(), signature)
    answers = []
    with torch.inference_mode():
        for inputs in cases:
            tensors = [to_torch(inputs[spec.name], device) for spec in signature.inputs]
            outputs = flat(*[t.double() if wide and t.is_floating_point() else t for t in tensors])
            answers.append(dict(zip(signature.output_names, [output.cpu() for output in outputs], strict=True)))
    return list(answers)
