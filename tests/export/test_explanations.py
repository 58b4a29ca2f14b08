"""Every refusal of the table is provoked: a real model, the real exporter, one sentence with the line of the model."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from export import registry
from export.backend import BuildInput, LoadOptions
from export.capture_roads import Capture
from export.completion import complete
from export.errors import UserError
from export.explanations import explain, in_words, users_line
from export.exporters.onnx import export_program
from export.flat import FlatModule
from export.program import capture, quiet
from export.refusals import CAUSES
from export.runtimes.onnxruntime import OnnxRuntimeOptions, open_session
from export.signature import Signature, SizeRange, TensorSpec
from tests.export import refusal_models

SIGNATURE = Signature(inputs=(TensorSpec("x", "float32", ("batch", 7)),), ranges={"batch": SizeRange(min=2, max=64)})


@dataclass(frozen=True)
class Refusal:
    """What a model is refused for."""

    model: str
    by: str
    """``complete``, ``capture``, a backend, or ``session`` for ONNX Runtime on the built file."""
    means: str
    line: str
    """Its code; empty where the refusal leads to no line."""


REFUSALS = (
    Refusal(
        "Branch", "capture",
        "forward() goes on by the values of a tensor, which are not known while it is traced", "if x.sum() > 0:",
    ),
    Refusal(
        "Equal", "capture",
        "forward() asks for a Python value of tensors (aten.equal.default), which are not known while it is traced",
        "return x if torch.equal(x, x.flip(0)) else x + 1",
    ),
    Refusal(
        "Numpy", "capture", "forward() leaves PyTorch for NumPy, where no tracer can follow",
        "return x + torch.from_numpy(np.sin(x.detach().numpy()))",
    ),
    Refusal("Positions", "capture", "the code of the model does not hold for every declared size of batch", ""),
    Refusal(
        "Doubled", "capture",
        "the tracer cannot show that the code holds for every declared size of batch (it would need "
        "math.trunc(2.0*torch.sym_float(L['tensors'][0].size()[0])) == (2*L['tensors'][0].size()[0]).)", "",
    ),
    Refusal(
        "Packed", "capture", "torch.export cannot trace a recurrent layer over a packed sequence",
        "return self.gru(packed)[1][0]",
    ),
    Refusal(
        "Sparse", "capture", "torch.export cannot trace the sparse operator aten._sparse_addmm",
        "return torch.sparse.mm(self.adjacency, x.T).T",
    ),
    Refusal(
        "Nested", "capture", "torch.export cannot trace nested tensors (aten._nested_tensor_from_tensor_list)",
        "return torch.nested.nested_tensor([x[0], x[1]]).to_padded_tensor(0.0)",
    ),
    Refusal(
        "Forces", "capture", "forward() makes a tensor that the tracer cannot follow, as torch.autograd.grad does", ""
    ),
    Refusal("ChangedParameter", "complete", "forward() changes a parameter in place", "self.weight.mul_(2)"),
    Refusal(
        "ChangedInferenceTensor", "complete",
        "forward() changes a tensor in place that was made in inference mode", "y.add_(1)",
    ),
    Refusal(
        "HookedWeightNorm", "complete",
        "the module keeps a tensor that was computed with gradients, as weight_norm by hooks does once it was called",
        "",
    ),
    Refusal(
        "Spectrum", "onnx",
        "the ONNX exporter has no aten.zeros_like for complex numbers, which ONNX itself does not know",
        "return torch.fft.ifft(torch.zeros_like(torch.fft.fft(x))).real + x",
    ),
    Refusal(
        "Cholesky", "onnx", "the ONNX exporter has no translation of aten.linalg_cholesky_ex",
        "return torch.linalg.cholesky(x.T @ x + torch.eye(7))",
    ),
    Refusal(
        "ChangedConstant", "onnx",
        "forward() changes the tensor factor in place, which is neither parameter nor buffer", "",
    ),
    Refusal(
        "Histogram", "onnx",
        "the ONNX exporter cannot translate aten.histc.default as it is used here "
        "(aten_histc with min == max (0.0) is not supported in this export path.)",
        "return torch.histc(x, 4)",
    ),
    Refusal(
        "Cholesky", "onnx-legacy", "the older ONNX exporter has no translation of linalg_cholesky (opset 17)", ""
    ),
    Refusal(
        "HalfPrecise", "session",
        "ONNX Runtime has no Gemm (opset 13) for the dtype that it is given at node_linear", "",
    ),
    Refusal(
        "Autocast", "session",
        "ONNX has no LayerNormalization whose weights are of another type than its input, as autocast makes it", "",
    ),
    Refusal(
        "Autocast", "compile",
        "torch.compile cannot take a traced block under autocast whose sizes are dynamic", "",
    ),
    Refusal(
        "OwnGradient", "torchscript", "TorchScript cannot save the autograd function _Square", "return _Square.apply(x)"
    ),
    Refusal(
        "Counting", "torchscript",
        "forward() does something else at each call, so that a trace holds one of them only", "",
    ),
    Refusal(
        "Forces", "torchscript", "forward() takes a gradient, which a trace cannot hold",
        "return torch.autograd.grad(self.energy(place).sum(), place)[0]",
    ),
    Refusal("Gradients", "torchscript", "TorchScript does not know aten::enable_grad", "with torch.enable_grad():"),
    Refusal(
        "Indexed", "torchscript", "TorchScript does not index a ModuleList by a variable", "x = self.layers[number](x)"
    ),
    Refusal(
        "Listed", "torchscript", "TorchScript must know the type of the list that tolist() makes",
        "return x * sum(x[0].tolist())",
    ),
    Refusal(
        "Global", "torchscript", "TorchScript does not know global values of type dict", "return x * SCALES[0]"
    ),
    Refusal(
        "Remembering", "torchscript",
        "TorchScript cannot take over the attribute settings, a Python value of a type that it does not have",
        "return x if self.settings is None else x + 1",
    ),
    Refusal(
        "Setting", "torchscript", "forward() sets the attribute last, which __init__ does not have",
        "self.last = x * 2",
    ),
    Refusal(
        "Variadic", "torchscript", "TorchScript does not take *args, **kwargs or keyword-only defaults",
        "def forward(self, *tensors: torch.Tensor) -> torch.Tensor:",
    ),
    Refusal("Trying", "torchscript", "TorchScript does not have this part of Python: try blocks", "try:"),
    Refusal(
        "Counting", "torchscript", "TorchScript does not have this part of Python: keyword-arg expansion",
        "x = self.passed_on(x, **NOTE)",
    ),
)  # fmt: skip


def said(refusal: Refusal, folder: Path) -> str:
    """What the exporter's refusal becomes; of what is scripted, why it was not."""
    make: Callable[[], nn.Module] = lambda: getattr(refusal_models, refusal.model)().eval()  # noqa: E731
    try:
        return _asked(refusal.by, make, folder)
    except Exception as error:  # noqa: BLE001 - whatever the exporter raises is what is looked at
        explanation = explain("".join(traceback.format_exception(error)))
        return (
            str(error)
            if isinstance(error, UserError) and refusal.by != "complete"
            else str(explanation and explanation.sentence)
        )


def refuse_none(program: torch.export.ExportedProgram) -> None:
    """Accept any program."""


def _asked(by: str, make: Callable[[], nn.Module], folder: Path) -> str:
    if by == "torchscript":  # whose road it is does not matter to the signature
        output = TensorSpec("output", "float32", ("batch", 7))
        signature = replace(SIGNATURE, outputs=(output,), output_names=("output",))
        return registry.get(by).build(_source(make, signature, folder), folder)["not_by_script"]
    signature = complete(make(), SIGNATURE, 0)
    if by == "capture":  # the first road: a later one may take what it refuses
        flat = FlatModule(make(), signature)
        dims = {"batch": torch.export.Dim("batch", min=2, max=64)}
        with quiet():
            Capture(flat=flat, signature=signature, seed=0, accept=refuse_none).export(signature.example_sizes(), dims)
        return "nothing was refused"
    program = capture(make(), signature, 0)
    torch.export.save(program.exported, folder / "program.pt2")
    if by == "onnx":
        export_program(_source(make, signature, folder), folder / "model.onnx")
        return "nothing was refused"
    backend = registry.get("onnx" if by == "session" else by)
    backend.build(_source(make, signature, folder), folder)
    open_session(str(folder / str(backend.file)), LoadOptions(), OnnxRuntimeOptions())
    return "nothing was refused"


def _source(make: Callable[[], nn.Module], signature: Signature, folder: Path) -> BuildInput:
    return BuildInput(
        signature=signature,
        seed=0,
        device="cpu",
        module=make,
        program_file=folder / "program.pt2",
        program_failure=None,
        calibration=None,
    )


def one_of_each_first() -> list[Any]:
    """Every refusal; those after the first by an exporter are slow tests."""
    firsts = {refusal.by: refusal for refusal in reversed(REFUSALS)}.values()
    return [refusal if refusal in firsts else pytest.param(refusal, marks=pytest.mark.slow) for refusal in REFUSALS]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("refusal", one_of_each_first(), ids=lambda refusal: f"{refusal.model}-{refusal.by}")
def test_a_refusal_is_a_sentence_with_the_line_of_the_model(refusal: Refusal, tmp_path: Path) -> None:
    sentence = said(refusal, tmp_path)
    assert refusal.means in sentence
    if refusal.line:
        assert re.search(rf"refusal_models\.py:\d+: {re.escape(refusal.line)}", sentence), sentence
    assert "\n" not in sentence
    assert "\\" not in sentence


def test_every_cause_of_the_table_is_provoked() -> None:
    patterns = [re.sub(r"\\\\\d", ".*", re.escape(cause.means)) for cause in CAUSES]
    provoked = [any(re.match(pattern, refusal.means) for refusal in REFUSALS) for pattern in patterns]
    assert [cause.means for cause, is_provoked in zip(CAUSES, provoked, strict=True) if not is_provoked] == []


def test_what_no_cause_fits_keeps_its_own_words() -> None:
    assert explain("ValueError: something quite else") is None
    assert in_words(ValueError("first\nsecond")) == "ValueError: first"


def test_the_innermost_line_is_the_users_and_not_a_librarys() -> None:
    text = (
        '  File "/home/me/net.py", line 3, in forward\n    return self.inner(x)\n'
        '  File "/home/me/inner.py", line 7, in forward\n    return torch.add(x, 1)\n'
        '  File "/venv/lib/python3.11/site-packages/torch/_ops.py", line 9, in __call__\n    return self._op(x)\n'
    )
    assert users_line(text) == "inner.py:7: return torch.add(x, 1)"
    library = text.replace("/home/me/", "/venv/lib/python3.11/site-packages/transformers/models/")
    assert users_line(library) == "transformers/models/inner.py:7: return torch.add(x, 1)"
    assert users_line(text.replace("/home/me/", "/venv/lib/python3.11/site-packages/torch/nn/")) is None
