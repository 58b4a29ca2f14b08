"""Classification, segmentation and detection networks of ``torchvision``, with random weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchvision
from torch import nn
from torchvision.models import detection, segmentation

from bench.parity.spec import ParitySpec
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe

NEEDS = ("torchvision",)
FEW = ParitySpec(rows_count=64)
SIDE = SizeRange(min=48, max=80)


def _of_images(name: str, model: Callable[[], nn.Module]) -> Recipe:
    return Recipe(
        name=name,
        model=model,
        signature=Signature(
            inputs=(TensorSpec("image", "float32", ("batch", 3, "height", "width")),),
            ranges={"batch": SizeRange(max=8), "height": SIDE, "width": SIDE},
        ),
        parity=FEW,
    )


def resnet() -> Recipe:
    """A ResNet with one block a stage."""
    return _of_images(
        "resnet",
        lambda: torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10),
    )


def squeezenet() -> Recipe:
    """SqueezeNet 1.1, whose pooling rounds up."""
    return _of_images("squeezenet", lambda: torchvision.models.squeezenet1_1(num_classes=10))


def shufflenet() -> Recipe:
    """ShuffleNet v2: channels that are split and shuffled."""
    return _of_images("shufflenet", lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=10))


def mnasnet() -> Recipe:
    """MNASNet."""
    return _of_images("mnasnet", lambda: torchvision.models.mnasnet0_5(num_classes=10))


def densenet() -> Recipe:
    """DenseNet, every layer joined to all before it."""
    return _of_images(
        "densenet",
        lambda: torchvision.models.DenseNet(
            growth_rate=8, block_config=(2, 3, 2), num_init_features=16, num_classes=10
        ),
    )


def lraspp() -> Recipe:
    """Lite R-ASPP on MobileNet v3: a class for every pixel, results in a dict."""
    return _of_images(
        "lraspp", lambda: segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    )


class _Segmenter(nn.Module):
    """A small body under one of torchvision's heads, resized to the image."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        )  # fmt: skip
        self.head = head

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(
            self.head(self.body(image)), size=image.shape[-2:], mode="bilinear", align_corners=False
        )


def fcn() -> Recipe:
    """FCN's head."""
    return _of_images("fcn", lambda: _Segmenter(segmentation.fcn.FCNHead(32, 4)))


def deeplab() -> Recipe:
    """DeepLab v3's head: dilated convolutions and pooling of the whole image."""
    return _of_images("deeplab", lambda: _Segmenter(segmentation.deeplabv3.DeepLabHead(32, 4, (6, 12, 18))))


class _Pyramid(nn.Module):
    """A feature pyramid, and RetinaNet's heads on it: scores and offsets of every anchor, before they are picked."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(3 if i == 0 else 8 * 2**i, 8 * 2 ** (i + 1), 3, 2, 1), nn.ReLU())
                for i in range(3)
            ]
        )
        self.pyramid = torchvision.ops.FeaturePyramidNetwork([16, 32, 64], 16)
        self.heads = detection.retinanet.RetinaNetHead(16, num_anchors=3, num_classes=4)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = {}
        for level, stage in enumerate(self.stages):
            image = stage(image)
            maps[str(level)] = image
        heads: dict[str, torch.Tensor] = self.heads(list(self.pyramid(maps).values()))
        return heads


def retina_heads() -> Recipe:
    """A feature pyramid with RetinaNet's heads."""
    return _of_images("retina_heads", _Pyramid)
