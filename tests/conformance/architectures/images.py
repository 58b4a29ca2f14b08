"""Image classifiers and features of ``timm``, the smallest of their families or smaller, with random weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
from timm.models.mlp_mixer import MlpMixer

from bench.parity.spec import ParitySpec
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe

NEEDS = ("timm", "torchvision")
FEW = ParitySpec(rows_count=64)
BATCH = SizeRange(max=8)
SIDE = SizeRange(min=48, max=80)


def _of_any_size(name: str, family: str, **settings: Any) -> Recipe:
    """A convolutional network, which takes images of any height and width."""
    return Recipe(
        name=name,
        model=partial(timm.create_model, family, pretrained=False, num_classes=10, **settings),
        signature=Signature(
            inputs=(TensorSpec("image", "float32", ("batch", 3, "height", "width")),),
            output_names=("logits",),
            ranges={"batch": BATCH, "height": SIDE, "width": SIDE},
        ),
        parity=FEW,
    )


def _of_side(name: str, side: int, family: str, **settings: Any) -> Recipe:
    """A network that is made for images of one size."""
    return Recipe(
        name=name,
        model=partial(timm.create_model, family, pretrained=False, num_classes=10, img_size=side, **settings),
        signature=Signature(
            inputs=(TensorSpec("image", "float32", ("batch", 3, side, side)),),
            output_names=("logits",),
            ranges={"batch": BATCH},
        ),
        parity=FEW,
    )


def timm_resnet() -> Recipe:
    """A ResNet of ten layers."""
    return _of_any_size("timm_resnet", "resnet10t")


def timm_convnext() -> Recipe:
    """ConvNeXt, two stages' worth of blocks."""
    return _of_any_size("timm_convnext", "convnext_atto", depths=(1, 1, 2, 1))


def timm_efficientnet() -> Recipe:
    """EfficientNet-Lite0: inverted residuals with ReLU6."""
    return _of_any_size("timm_efficientnet", "efficientnet_lite0")


def timm_mobilenet() -> Recipe:
    """MobileNet v3, small: hard swish and squeeze-and-excitation."""
    return _of_any_size("timm_mobilenet", "mobilenetv3_small_050")


def timm_regnet() -> Recipe:
    """RegNetX: grouped convolutions."""
    return _of_any_size("timm_regnet", "regnetx_002")


def timm_ghostnet() -> Recipe:
    """GhostNet: half of the features by cheap convolutions."""
    return _of_any_size("timm_ghostnet", "ghostnet_050")


def timm_edgenext() -> Recipe:
    """EdgeNeXt: convolutions, and attention across channels."""
    return _of_any_size("timm_edgenext", "edgenext_xx_small")


def timm_vit() -> Recipe:
    """ViT with a class token."""
    return _of_side("timm_vit", 48, "vit_tiny_patch16_224", patch_size=8, embed_dim=48, depth=2, num_heads=3)


def timm_swin() -> Recipe:
    """Swin: attention within shifted windows."""
    return _of_side(
        "timm_swin", 64, "swin_tiny_patch4_window7_224", embed_dim=24, depths=(2, 2), num_heads=(2, 4), window_size=4
    )


def timm_mixer() -> Recipe:
    """MLP-Mixer: linear layers across patches and channels."""
    return Recipe(
        name="timm_mixer",
        model=lambda: MlpMixer(num_classes=10, img_size=64, patch_size=16, num_blocks=2, embed_dim=64),
        signature=Signature(
            inputs=(TensorSpec("image", "float32", ("batch", 3, 64, 64)),),
            output_names=("logits",),
            ranges={"batch": BATCH},
        ),
        parity=FEW,
    )


def timm_xcit() -> Recipe:
    """XCiT: attention between channels instead of patches."""
    return _of_side("timm_xcit", 64, "xcit_nano_12_p16_224", embed_dim=64, depth=2, num_heads=4)


def timm_features() -> Recipe:
    """A backbone's maps at four strides: four outputs."""
    return Recipe(
        name="timm_features",
        model=partial(timm.create_model, "mobilenetv3_small_050", pretrained=False, features_only=True),
        signature=Signature(
            inputs=(TensorSpec("image", "float32", ("batch", 3, "height", "width")),),
            ranges={"batch": BATCH, "height": SIDE, "width": SIDE},
        ),
        parity=FEW,
    )
