"""What PyTorch and ONNX Runtime cannot do with an architecture of the suite, and where that is reported."""

from __future__ import annotations

_PYTORCH = "https://github.com/pytorch/pytorch/issues"
_ONE_PIXEL = (
    "its last stage is one pixel high for some of the declared sizes and more for others, which `torch.export` takes "
    f"for different programs ({_PYTORCH}/181097)"
)
UPSTREAM = {
    "pyramid": (
        "adaptive pooling to several bins of an image of any size: the exporter writes indices that fit the example's "
        f"size ({_PYTORCH}/64806)"
    ),
    "timm_convnext": _ONE_PIXEL,
    "timm_edgenext": _ONE_PIXEL,
    "separator": (
        f"it pads by an `if` on the number of samples, of which a program holds the example's side ({_PYTORCH}/136216)"
    ),
    "mamba": "the model loops over time in Python, which is unrolled; its CUDA kernels are not used on the CPU",
}
"""By name: half a sentence, with the report."""
