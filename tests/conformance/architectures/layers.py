"""Feed-forward and convolutional networks of ``torch.nn`` alone."""

from __future__ import annotations

import torch
from torch import nn

from bench.parity.spec import ParitySpec
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe

NEEDS: tuple[str, ...] = ()
BATCH = SizeRange(max=64)
SIDE = SizeRange(min=16, max=40)
PIXELS = ParitySpec(rows_count=256)


def _floats(*shape: int | str, name: str = "x") -> TensorSpec:
    return TensorSpec(name, "float32", ("batch", *shape))


def mlp() -> Recipe:
    """Linear layers with GELU, layer normalisation and dropout."""
    return Recipe(
        name="mlp",
        model=lambda: nn.Sequential(
            nn.Linear(20, 64),
            nn.GELU(),
            nn.LayerNorm(64),
            nn.Dropout(0.1),
            nn.Linear(64, 64),
            nn.SiLU(),
            nn.Linear(64, 5),
        ),
        signature=Signature(inputs=(_floats(20),), output_names=("logits",), ranges={"batch": BATCH}),
    )


def autoencoder() -> Recipe:
    """A bottleneck, and what is rebuilt from it: two outputs."""
    return Recipe(
        name="autoencoder", model=_Autoencoder, signature=Signature(inputs=(_floats(32),), ranges={"batch": BATCH})
    )


class _Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 6))
        self.decoder = nn.Sequential(nn.Linear(6, 24), nn.ELU(), nn.Linear(24, 32))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        code = self.encoder(x)
        return code, self.decoder(code)


def cnn() -> Recipe:
    """Convolutions with batch normalisation and pooling, a linear head with softmax."""
    return Recipe(
        name="cnn",
        model=lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.LeakyReLU(0.1), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(32 * 8 * 8, 10), nn.Softmax(dim=1),
        ),
        signature=Signature(inputs=(_floats(3, 32, 32, name="image"),), ranges={"batch": BATCH}),
        parity=PIXELS,
    )  # fmt: skip


def fully_convolutional() -> Recipe:
    """Strides and global pooling over images of any size, with the map it pooled."""
    return Recipe(name="fully_convolutional", model=_FullyConvolutional, signature=_images(3), parity=PIXELS)


class _FullyConvolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(16, 4)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.body(image)
        return features, self.head(features.mean((2, 3)))


def _images(channels: int) -> Signature:
    return Signature(
        inputs=(_floats(channels, "height", "width", name="image"),),
        ranges={"batch": SizeRange(max=16), "height": SIDE, "width": SIDE},
    )


def unet() -> Recipe:
    """Down, up by interpolation to the size of the skip, and joined with it: images of any size."""
    return Recipe(name="unet", model=_UNet, signature=_images(1), parity=PIXELS)


class _UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU())
        self.bottom = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.SiLU())
        self.up = nn.Conv2d(24, 2, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skip = self.down(image)
        raised = nn.functional.interpolate(self.bottom(skip), size=skip.shape[2:], mode="bilinear")
        return self.up(torch.cat((skip, raised), 1))


def super_resolution() -> Recipe:
    """Twice the size by pixel shuffle, added to the bicubic enlargement."""
    return Recipe(name="super_resolution", model=_SuperResolution, signature=_images(1), parity=PIXELS)


class _SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.PReLU(), nn.Conv2d(16, 4, 3, padding=1))
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        enlarged = nn.functional.interpolate(image, scale_factor=2, mode="bicubic")
        return self.shuffle(self.body(image)) + enlarged


def separable() -> Recipe:
    """Depthwise and pointwise convolutions with squeeze-and-excitation and a residual."""
    return Recipe(name="separable", model=_Separable, signature=_images(8), parity=PIXELS)


class _Separable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(8, 24, 1), nn.BatchNorm2d(24), nn.Hardswish(),
            nn.Conv2d(24, 24, 5, padding=2, groups=24), nn.BatchNorm2d(24), nn.Hardswish(),
        )  # fmt: skip
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 6, 1), nn.ReLU(), nn.Conv2d(6, 24, 1), nn.Hardsigmoid()
        )
        self.project = nn.Conv2d(24, 8, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        wide = self.body(image)
        return image + self.project(wide * self.gate(wide))


def normalisations() -> Recipe:
    """Batch, group, instance, layer and RMS normalisation in a row."""
    return Recipe(
        name="normalisations",
        model=lambda: nn.Sequential(
            nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.GroupNorm(4, 8), nn.InstanceNorm1d(8, affine=True),
            nn.LayerNorm(24), nn.RMSNorm(24), nn.Flatten(), nn.Linear(192, 3),
        ),
        signature=Signature(inputs=(_floats(4, 24),), ranges={"batch": BATCH}),
    )  # fmt: skip


def volumes() -> Recipe:
    """Three-dimensional convolutions with a dynamic depth."""
    return Recipe(
        name="volumes",
        model=lambda: nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool3d((1, 2, 2)), nn.Conv3d(4, 8, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3),
        ),
        signature=Signature(
            inputs=(_floats(1, "depth", 12, 12, name="volume"),),
            ranges={"batch": SizeRange(max=16), "depth": SizeRange(min=4, max=16)},
        ),
        parity=PIXELS,
    )  # fmt: skip


def decoder() -> Recipe:
    """From a code to an image by transposed convolutions, as generators do."""
    return Recipe(
        name="decoder",
        model=lambda: nn.Sequential(
            nn.Linear(8, 16 * 4 * 4), nn.Unflatten(1, (16, 4, 4)),
            nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1), nn.Tanh(),
        ),
        signature=Signature(inputs=(_floats(8, name="code"),), output_names=("image",), ranges={"batch": BATCH}),
        parity=PIXELS,
    )  # fmt: skip


def pyramid() -> Recipe:
    """Adaptive pooling at three scales, joined: a vector of one length from an image of any size."""
    return Recipe(name="pyramid", model=_Pyramid, signature=_images(3), parity=PIXELS)


class _Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.scales = nn.ModuleList([nn.AdaptiveAvgPool2d(size) for size in (1, 2, 4)])
        self.head = nn.Linear(8 * 21, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.body(image).relu()
        return self.head(torch.cat([scale(features).flatten(1) for scale in self.scales], 1))
