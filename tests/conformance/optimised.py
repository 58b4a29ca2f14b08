"""What optimisers of others make of ONNX files, held to the files they were made from.

    python -m tests.conformance.optimised [--write docs/measured/optimised.md]

Needs transformers, timm, onnxslim and onnxsim beside the extra ``test``. An optimiser is to change no answer: what is
refused is its fault or ours.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import nn

import torchstone

HEADING = """# Optimisers of others, held to the file that they were given

`python -m tests.conformance.optimised --write docs/measured/optimised.md` on {where}.

Each row is a file that an optimiser made of an ONNX export, judged by `torchstone.compare` against that export in
float64: no PyTorch model is asked. *Largest error* is in units of the original's own float32 error; up to 4 passes.
`half` turns weights and values into float16, and is there to be refused.

| model | optimiser | nodes | parity | largest error | why |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Model:
    """A model as it is exported."""

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    dynamic: dict[str, dict[int, str]]
    ranges: dict[str, tuple[int, int]]
    fusion: dict[str, Any] | None = None
    """What ONNX Runtime's own fusions for transformers need to know."""


def models() -> Iterator[tuple[str, Model]]:
    """Models of others with random weights."""
    import timm
    from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

    torch.manual_seed(0)
    ids, mask = torch.randint(0, 200, (2, 7)), torch.ones(2, 7, dtype=torch.int64)
    text = {"input_ids": ids, "attention_mask": mask}
    moving = {name: {0: "batch", 1: "length"} for name in text}
    ranges = {"batch": (1, 8), "length": (1, 32)}
    bert = BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=200,
        attn_implementation="eager",
    )  # fmt: skip
    fusion = {"model_type": "bert", "num_heads": 4, "hidden_size": 64}
    yield "BERT", Model(_Hidden(BertModel(bert)), text, moving, ranges, fusion)
    gpt2 = GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=200, attn_implementation="eager", use_cache=False)
    yield "GPT-2", Model(_Hidden(GPT2Model(gpt2)), text, moving, ranges, fusion | {"model_type": "gpt2"})
    for name in ("resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224"):
        module = timm.create_model(name, num_classes=10, **({"img_size": 64} if name.startswith("vit") else {}))
        image = {"image": torch.randn(2, 3, 64, 64)}
        yield name, Model(_Image(module), image, {"image": {0: "batch"}}, {"batch": (1, 8)})


class _Hidden(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class _Image(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> Any:
        return self.model(image)


def export(model: Model, path: Path) -> None:
    """By the TorchScript exporter, whose graphs leave optimisers the most to do."""
    torch.onnx.export(
        model.module.eval(), tuple(model.inputs.values()), path, dynamo=False, opset_version=17,
        input_names=[*model.inputs], output_names=["answer"], dynamic_axes=model.dynamic, do_constant_folding=False,
    )  # fmt: skip


def _onnxruntime(level: Any) -> Callable[[Path, Path, Model], None]:
    def optimise(original: Path, target: Path, model: Model) -> None:
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level, settings.optimized_model_filepath = level, str(target)
        settings.log_severity_level = 3
        onnxruntime.InferenceSession(str(original), settings, providers=["CPUExecutionProvider"])

    return optimise


def _fusions(original: Path, target: Path, model: Model) -> None:
    from onnxruntime.transformers import optimizer

    assert model.fusion is not None
    optimizer.optimize_model(str(original), **model.fusion).save_model_to_file(str(target))


def _slim(original: Path, target: Path, model: Model) -> None:
    import onnxslim

    onnxslim.slim(str(original), str(target))


def _simplifier(original: Path, target: Path, model: Model) -> None:
    import onnxsim

    simplified, _ = onnxsim.simplify(onnx.load(str(original)))
    onnx.save(simplified, str(target))


def _half(original: Path, target: Path, model: Model) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(str(original)), keep_io_types=True), str(target))


OPTIMISERS: dict[str, Callable[[Path, Path, Model], None]] = {
    "onnxruntime-basic": _onnxruntime(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC),
    "onnxruntime-extended": _onnxruntime(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
    "fused": _fusions,
    "slim": _slim,
    "simplified": _simplifier,
    "half": _half,
}


def rows(name: str, model: Model, folder: Path) -> Iterator[str]:
    """A line of the table for every file that was made."""
    folder.mkdir()
    original = folder / "original.onnx"
    export(model, original)
    files = {}
    for optimiser, optimise in OPTIMISERS.items():
        if optimise is _fusions and model.fusion is None:
            continue  # they know transformers alone
        target = folder / f"by-{optimiser}.onnx"
        try:
            optimise(original, target, model)
        except Exception as error:  # noqa: BLE001 - an optimiser of others ends in its own ways, which the table says
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            yield f"| {name} | {optimiser} | - | not made | - | {why} |"
        else:
            files[f"by-{optimiser}"] = target
    result = torchstone.compare(
        original, files, model.inputs, ranges=model.ranges, only="parity", out=folder / "out", quiet=True
    )
    for row in result:
        if row.name != "eager":
            file = files.get(row.name, original)
            nodes_count = len(onnx.load(str(file), load_external_data=False).graph.node)
            ratio = "-" if row.largest_error is None else f"{row.largest_error:.2f}"
            why = "; ".join(row.reasons)[:120]
            yield f"| {name} | {row.name.removeprefix('by-')} | {nodes_count} | {row.status} | {ratio} | {why} |"


def main() -> None:
    """Print the table, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, model in models():
            for line in rows(name, model, Path(scratch) / name):
                print(line, flush=True)
                lines.append(line)
    if arguments.write is not None:
        versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
        where = f"{platform.processor() or platform.machine()}, {versions}"
        arguments.write.write_text(HEADING.format(where=where) + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
