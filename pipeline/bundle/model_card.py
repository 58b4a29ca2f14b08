"""The model card of a bundle: what it is, what parity tested, what was measured, and how to run and check it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bench.parity.report import ParityReport
from bench.verdict.judge import Verdict
from export import registry
from export.device import CHILD_ENVIRONMENT, device
from export.registry import BASELINE
from pipeline.bundle.forms.triton import STRICT_FLOAT32, aoti_refuses
from pipeline.bundle.markdown import code, front_matter, inline, table
from pipeline.bundle.pack import ARCHIVE_NAME
from pipeline.bundle.record import Bundle, Shipped
from pipeline.report import numbers, text


def write_model_card(path: Path, bundle: Bundle, verdict: Verdict, reports: Mapping[str, ParityReport]) -> None:
    """Markdown, every figure from the records."""
    path.write_text("\n".join(_card(bundle, verdict, reports)) + "\n", encoding="utf-8")


def _card(bundle: Bundle, verdict: Verdict, reports: Mapping[str, ParityReport]) -> Iterator[str]:
    default = next(shipped for shipped in bundle.shipped if shipped.name == bundle.default)
    if bundle.licence:
        yield from (*front_matter(license=bundle.licence.lower()), "")  # model hubs know licences in lower case
    yield f"# {inline(bundle.name)}"
    yield ""
    licence = inline(bundle.licence) if bundle.licence else "not stated by the recipe"
    yield f"Exported, tested for parity and measured with Torchstone {bundle.version}. Licence: {licence}."
    if verdict.metrics:
        summary = ", ".join(f"{inline(name)} {value:.4g}" for name, value in sorted(verdict.metrics.items()))
        yield f"Metrics of its weights: {summary}."
    yield from _section("Inputs and outputs", _tensors(bundle, default))
    yield from _section("What is here", _artifacts(bundle, default))
    yield from _section("Is it the model?", (_parity(shipped, reports[shipped.name]) for shipped in bundle.shipped))
    yield from _section("How fast is it?", _speeds(bundle, verdict))
    yield from _section("Run it", _example(bundle, default))
    yield from _section(
        "Where it comes from",
        (
            f"Verdict `{bundle.verdict_sha256}`, recipe `{verdict.key}`; `records/` holds the chain between them,",
            "with the digests of the source files and of every tensor of the data, and the raw measurements.",
        ),
    )


def _section(heading: str, lines: Iterable[str]) -> Iterator[str]:
    yield from ("", f"## {heading}", "")
    yield from lines


def _tensors(bundle: Bundle, default: Shipped) -> Iterator[str]:
    specs = bundle.signature.inputs + bundle.signature.outputs
    yield from table(
        ("tensor", "dtype", "shape"),
        [(code(spec.name), spec.dtype, inline(f"({', '.join(map(str, spec.shape))})")) for spec in specs],
    )
    yield ""
    for symbol, sizes in sorted(default.tested_sizes.items()):
        yield f"{code(symbol)} was tested from {sizes.min} to {sizes.max}; do not ask for other sizes."


def _artifacts(bundle: Bundle, default: Shipped) -> Iterator[str]:
    rows = []
    for shipped in bundle.shipped:
        name = f"{shipped.name} (winner)" if shipped.name == bundle.winner else shipped.name
        needs = inline(", ".join(f"{need} {value}" for need, value in shipped.needs.items()))
        rows.append((inline(name), code(shipped.file), shipped.precision, numbers.size(shipped.size_bytes), needs))
    yield from table(("artifact", "file", "precision", "size", "needs"), rows)
    if bundle.target_ort:
        yield ""
        yield f"{code(default.file)} was lowered for ONNX Runtime {inline(bundle.target_ort)}: it passed parity once"
        yield "more in that form, and its golden answers in that version."
    refused = aoti_refuses(bundle.signature)
    for shipped in bundle.shipped:
        if refused and registry.get(shipped.backend).serving_form == "torch_aoti":
            yield ""
            yield f"Triton does not serve {inline(shipped.name)}: {inline(refused)}."


def _parity(shipped: Shipped, report: ParityReport) -> str:
    if shipped.least_sqnr_db is not None:
        fidelity = next((check.message for check in report.checks if check.level == "fidelity"), "")
        return f"- **{inline(shipped.name)}**: {report.status}; {inline(fidelity)}."
    worst = "no float64 answer"
    if report.worst_ratio is not None:
        worst = f"largest error {report.worst_ratio:.2f} times eager float32's own"
    levels = len({check.level for check in report.checks if check.status == "pass"})
    most = report.thresholds.max_peak_ratio
    limit = f"at most {most:.3g} passes; {levels} levels looked at"
    return f"- **{inline(shipped.name)}**: {report.status}; {worst}, {limit}."


def _speeds(bundle: Bundle, verdict: Verdict) -> Iterator[str]:
    machine = bundle.environment.machine
    where = ", ".join((machine.cpu, *machine.gpus))
    yield f"On {machine.cores_count} cores of {inline(where)}, per bound call:"
    yield ""
    names = [BASELINE, *(shipped.name for shipped in bundle.shipped)]
    rows = tuple(row for row in verdict.rows if row.name in names)
    batches = text.batches(rows)
    yield from table(
        ("artifact", "cold start", "peak memory", *(f"batch {batch_rows}" for batch_rows in batches)),
        [
            (
                inline(row.name),
                text.cold(row),
                text.memory(row),
                *(text.speed(text.speed_at(row, batch_rows)) for batch_rows in batches),
            )
            for row in rows
        ],
    )
    if verdict.reasons:
        yield ""
        yield f"The verdict: {inline('; '.join(verdict.reasons))}."


def _example(bundle: Bundle, default: Shipped) -> Iterator[str]:
    inputs = ", ".join(f"{name!r}: np.load({path!r})" for name, path in bundle.golden[0].inputs.items())
    yield "```python"
    if default.runtime == "onnxruntime":
        yield "import numpy as np, onnxruntime"
        yield from _session(default)
        yield f"print(session.run(None, {{{inputs}}}))"
    else:
        yield "from pathlib import Path"
        yield "import numpy as np"
        yield "from export.registry import LoadOptions, load"
        yield f'runner = load(Path("artifacts/{default.name}"), LoadOptions(device="{default.options.device}"))'
        yield f"print(runner({{{inputs}}}))"
    yield "```"
    if device(default.options.device).asynchronous:
        environment = " ".join(f"{name}={value}" for name, value in CHILD_ENVIRONMENT.items())
        yield ""
        yield f"It was tested with `{environment}` in the environment, so that no library multiplies float32 as TF32:"
        yield "set it where it is to serve."
    yield ""
    yield "Check it first, on the machine where it is to serve: `python -m pipeline.verify DIR` where Torchstone is"
    yield f"installed, else `python DIR/{ARCHIVE_NAME}`, which you trust as far as the place that the bundle came from."


def _session(default: Shipped) -> Iterator[str]:
    """How ONNX Runtime is opened on the device that parity was tested on, and on no other."""
    where = device(default.options.device)
    if not where.asynchronous:
        yield f'session = onnxruntime.InferenceSession({default.file!r}, providers=["{where.provider}"])'
        return
    settings = {name: int(value) for name, value in STRICT_FLOAT32.items()}
    yield 'if hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on: the libraries, where Python packages hold them'
    yield "    onnxruntime.preload_dlls()"
    yield f'provider = ("{where.provider}", {json.dumps(settings)})  # float32 multiplied as float32'
    yield f"session = onnxruntime.InferenceSession({default.file!r}, providers=[provider], enable_fallback=0)"
    yield "assert session.get_providers()[0] == provider[0]  # else ONNX Runtime took the CPU, and did not say so"
