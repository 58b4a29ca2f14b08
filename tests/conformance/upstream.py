"""What PyTorch and ONNX Runtime cannot do with an architecture of the suite, and where that is reported."""

from __future__ import annotations

_PYTORCH = "https://github.com/pytorch/pytorch/issues"
UPSTREAM = {
    "pyramid": (
        "adaptive pooling to several bins of an image of any size: the exporter writes indices that fit the example's "
        f"size ({_PYTORCH}/64806)"
    ),
    "diagonal_state_space": (
        "ONNX Runtime's `DFT` knows no inverse of a one-sided spectrum "
        "(https://github.com/microsoft/onnxruntime/pull/27028)"
    ),
    "fnet": (
        "ONNX Runtime's `DFT` of a length that is no power of two is several times less exact than PyTorch's "
        "(by three transforms: https://github.com/microsoft/onnxruntime/pull/15522)"
    ),
    "mamba": "the model loops over time in Python, which is unrolled; its CUDA kernels are not used on the CPU",
}
"""By name: half a sentence, with the report."""
