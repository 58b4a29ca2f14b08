"""Faults made by ONNX Runtime's graph optimisation: the first level that shows one, then the passes that make it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from bench.locate.compared import LIMIT, local_ratio
from export import registry
from export.arrays import to_numpy
from export.artifact import Artifact
from export.backend import LoadOptions
from export.runtimes.onnxruntime import OnnxRuntimeOptions, open_session
from export.taps import Values
from export.taps.trace import Trace

Level = Literal["off", "basic", "extended", "all"]
LEVELS: tuple[Level, ...] = ("off", "basic", "extended", "all")
PASSES = (
    "ConstantFolding", "CommonSubexpressionElimination", "ConvAddFusion", "ConvMulFusion", "ConvBNFusion",
    "GemmActivationFusion", "GemmSumFusion", "MatMulScaleFusion", "GeluFusionL1", "GeluFusionL2",
    "GeluApproximation", "BiasGeluFusion", "FastGeluFusion", "QuickGeluFusion", "LayerNormFusionL1",
    "LayerNormFusionL2", "SimplifiedLayerNormFusion", "BiasSoftmaxFusion", "BiasDropoutFusion",
    "EmbedLayerNormFusion", "ReshapeFusion", "TransposeOptimizer", "NchwcTransformer", "NhwcTransformer",
    "NotWhereFusion", "UnsqueezeElimination", "CastElimination", "NoopElimination", "DivMulFusion",
    "PreShapeNodeElimination", "QDQSelectorActionTransformer", "DoubleQDQPairsRemover",
    "DynamicQuantizeMatMulFusion", "MatMulIntegerToFloatFusion", "ConvAddActivationFusion", "MatmulTransposeFusion",
    "CastChainElimination", "ExpandElimination", "RemoveDuplicateCastTransformer", "QDQFinalCleanupTransformer",
    "SliceConcatToSpaceToDepthFusion", "ReluQuantRewrite",
)  # fmt: skip
"""Graph transformers and rewrite rules that ``disabled_optimizers`` takes, as they are named in ONNX Runtime 1.31."""


def guilty_passes(
    folder: Path, artifact: Artifact, trace: Trace, inputs: Mapping[str, Values], options: LoadOptions
) -> str:
    """A sentence: at which optimisation level the fault appears, and without which passes it goes."""
    backend = registry.get(artifact.backend)
    runtime: OnnxRuntimeOptions = backend.runtime_options(options)

    def wrong(level: Level, disabled: Sequence[str]) -> bool:
        rewriting = replace(runtime, optimization=level)
        session = open_session(str(folder / str(backend.file)), options, rewriting, disabled_optimizers=disabled)
        answers = session.run(list(artifact.signature.output_names), dict(inputs))
        return any(
            local_ratio(to_numpy(trace.values[name]), to_numpy(trace.local(name, trace.inputs)[1]), answer) > LIMIT
            for name, answer in zip(trace.outputs, answers, strict=True)
        )

    level = next((level for level in LEVELS[: LEVELS.index(runtime.optimization) + 1] if wrong(level, ())), None)
    if level is None:
        return "no value is at fault, nor the whole on these inputs: look at the cases that the report names"
    if level == "off":
        return "no value is at fault by itself, but the whole is, without any optimisation"
    passes = narrowed(lambda disabled: wrong(level, disabled), PASSES)
    summary = f"it goes without {', '.join(passes)}" if passes else "no known pass alone makes it"
    return f"ONNX Runtime's optimisation makes the fault, from level {level} on: {summary}"


def narrowed(wrong: Callable[[Sequence[str]], bool], passes: Sequence[str]) -> tuple[str, ...]:
    """The fewest passes, by bisection, without which ``wrong`` is false; none if it stays true without all of them."""
    if wrong(passes):
        return ()
    if len(passes) == 1:
        return tuple(passes)
    half = len(passes) // 2
    for part in (passes[:half], passes[half:]):
        if not wrong(part):
            return narrowed(wrong, part)
    first = narrowed(lambda disabled: wrong([*disabled, *passes[half:]]), passes[:half])
    second = narrowed(lambda disabled: wrong([*first, *disabled]), passes[half:])
    return (*first, *second)
