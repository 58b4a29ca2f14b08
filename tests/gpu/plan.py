"""The steps, in the order of their value: the first ones are done when there is no time for all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Step:
    """One experiment, in a process of its own."""

    name: str
    function: str
    """``module:function``, called with a ``tests.gpu.step.Context``."""
    about: str
    """One sentence: the heading of its table."""
    expected_s: float
    """On an H100 with 16 cores. A step that no longer fits the budget is skipped."""
    limit_s: float
    """After that long it is killed; what it has written down until then is kept."""
    alone: bool = True
    """Whether nothing may run beside it, since it measures time. The others run side by side."""
    cpu: bool = True
    """Whether it makes sense on a CPU as well."""
    quick: bool = False
    """Whether it takes seconds on a CPU: tests run these."""
    after: tuple[str, ...] = ()
    """Steps that must have ended, well or not, before it starts."""


STEPS = (
    Step(
        name="facts", function="tests.gpu.facts:facts", quick=True, expected_s=15, limit_s=60,
        about="The machine, and what is installed on it",
    ),
    Step(
        name="sessions", function="tests.gpu.sessions:sessions", quick=True, expected_s=40, limit_s=120, alone=False,
        about="ONNX Runtime: which nodes land on which provider, with and without the right to fall back to the CPU",
    ),
    Step(
        name="packages", function="tests.gpu.packages:packages", expected_s=90, limit_s=240, alone=False,
        about="AOTInductor without anything of ours: a linear layer compiled, and loaded in a fresh process",
    ),
    Step(
        name="seed-parity", function="tests.gpu.project:seed_parity", expected_s=90, limit_s=240, alone=False,
        about="The default recipe trained, exported and checked: `pipeline.all seed --only parity`",
    ),
    Step(
        name="tests", function="tests.gpu.project:gpu_tests", expected_s=100, limit_s=240, alone=False, cpu=False,
        about="The tests marked gpu",
    ),
    Step(
        name="digits-parity", function="tests.gpu.project:digits_parity", expected_s=100, limit_s=240, alone=False,
        about="A convolutional network trained, exported and checked: `pipeline.all digits --only parity`",
    ),
    Step(
        name="tf32", function="tests.gpu.tf32:tf32", expected_s=40, limit_s=120, alone=False,
        about="Relative error of float32 products against float64, by flag, NVIDIA_TF32_OVERRIDE and runtime",
    ),
    Step(
        name="captured-sessions", function="tests.gpu.captured:captured", expected_s=20, limit_s=60, alone=False,
        cpu=False,
        about="ONNX Runtime with CUDA graphs: which ways of calling it give the answer to the last input",
    ),
    Step(
        name="fresh", function="tests.gpu.artifacts:fresh", expected_s=40, limit_s=120, alone=False,
        after=("seed-parity", "digits-parity"),
        about="Every artifact loaded in a fresh process: its witness, and its error against float64",
    ),
    Step(
        name="seed-measure", function="tests.gpu.project:seed_measure", expected_s=60, limit_s=180,
        about="`pipeline.all seed --only measure`",
    ),
    Step(
        name="seed-all", function="tests.gpu.project:seed_all", expected_s=15, limit_s=60,
        about="`pipeline.all seed`: the verdict and the bundle",
    ),
    Step(
        name="peers", function="tests.gpu.peers:peers", expected_s=60, limit_s=150,
        about="The artifacts beside what other tools give by default, every call waited for",
    ),
    Step(
        name="timing", function="tests.gpu.timing:timing", expected_s=50, limit_s=150,
        about="One call by several clocks: what a block, a waited call, events and a CUDA graph say",
    ),
    Step(
        name="digits-measure", function="tests.gpu.project:digits_measure", expected_s=60, limit_s=180,
        about="`pipeline.all digits --only measure`",
    ),
    Step(
        name="digits-all", function="tests.gpu.project:digits_all", expected_s=15, limit_s=60,
        about="`pipeline.all digits`: the verdict and the bundle",
    ),
    Step(
        name="cold", function="tests.gpu.cold:cold", expected_s=45, limit_s=120,
        about="Cold start against a clock outside the process; memory against what nvidia-smi counts",
    ),
    Step(
        name="roofline", function="tests.gpu.roofline:roofline", quick=True, expected_s=20, limit_s=60,
        about="Ceilings: matrix products by side and precision, copies by working set",
    ),
    Step(
        name="train", function="tests.gpu.training:train", expected_s=70, limit_s=200,
        about="Training twice bit by bit; plain and with --train.fast; a step in float32, TF32, bfloat16 and as a CUDA "
        "graph",
    ),
)  # fmt: skip
