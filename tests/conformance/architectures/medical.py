"""Segmentation networks of MONAI, with random weights."""

from __future__ import annotations

from collections.abc import Callable

from monai.networks import nets
from torch import nn

from bench.parity.spec import ParitySpec
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe

NEEDS = ("monai", "einops")
FEW = ParitySpec(rows_count=32)


def _of_volumes(name: str, model: Callable[[], nn.Module], *shape: int | str) -> Recipe:
    ranges = {"batch": SizeRange(max=4)} | ({"depth": SizeRange(min=16, max=24)} if "depth" in shape else {})
    return Recipe(
        name=name,
        model=model,
        signature=Signature(inputs=(TensorSpec("image", "float32", ("batch", 1, *shape)),), ranges=ranges),
        parity=FEW,
    )


def monai_unet() -> Recipe:
    """UNet over volumes, with residual units."""
    return _of_volumes(
        "monai_unet",
        lambda: nets.UNet(3, 1, 2, channels=(8, 16, 32), strides=(2, 2), num_res_units=1, norm="batch"),
        16, 16, 16,
    )  # fmt: skip


def monai_segresnet() -> Recipe:
    """SegResNet, with group normalisation."""
    return _of_volumes("monai_segresnet", lambda: nets.SegResNet(3, init_filters=8, out_channels=2), 16, 16, 16)


def monai_swin_unetr() -> Recipe:
    """Swin UNETR over planes."""
    return _of_volumes(
        "monai_swin_unetr",
        lambda: nets.SwinUNETR(1, 2, spatial_dims=2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4)),
        64, 64,
    )  # fmt: skip


def monai_attention_unet() -> Recipe:
    """UNet whose skips pass attention gates."""
    return _of_volumes(
        "monai_attention_unet", lambda: nets.AttentionUnet(2, 1, 2, channels=(8, 16, 32), strides=(2, 2)), 32, 32
    )


def monai_dynunet() -> Recipe:
    """DynUNet, as nnU-Net builds it."""
    return _of_volumes(
        "monai_dynunet",
        lambda: nets.DynUNet(2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 16, 32], res_block=True),
        32, 32,
    )  # fmt: skip


def monai_densenet() -> Recipe:
    """DenseNet over volumes of any depth."""
    return _of_volumes(
        "monai_densenet",
        lambda: nets.DenseNet(3, 1, 4, init_features=8, growth_rate=4, block_config=(2, 2)),
        "depth", 16, 16,
    )  # fmt: skip
