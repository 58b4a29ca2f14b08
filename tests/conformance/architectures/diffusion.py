"""Networks of ``diffusers``, with random weights: one step of noise taken away, and codes turned into images."""

from __future__ import annotations

import diffusers
import torch
from torch import nn

from bench.parity.spec import ParitySpec
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe

NEEDS = ("diffusers",)
FEW = ParitySpec(rows_count=32)
BATCH = SizeRange(max=4)
LATENT = TensorSpec("latent", "float32", ("batch", 4, 8, 8))
HIDDEN = TensorSpec("hidden_states", "float32", ("batch", 4, 8, 8))
"""The same, as the transformer calls it."""
TIME = TensorSpec("timestep", "int64", ("batch",), low=0, high=999)


def unet_step() -> Recipe:
    """UNet2D with attention in its middle, at any timestep: a dataclass comes back."""
    model = diffusers.UNet2DModel
    return Recipe(
        name="unet_step",
        model=lambda: model(
            sample_size=16, in_channels=3, out_channels=3, block_out_channels=(16, 32), norm_num_groups=4,
            layers_per_block=1, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=8,
        ),
        signature=Signature(
            inputs=(TensorSpec("sample", "float32", ("batch", 3, 16, 16)), TIME), ranges={"batch": BATCH}
        ),
        parity=FEW,
    )  # fmt: skip


def conditioned_unet_step() -> Recipe:
    """UNet2D that attends to a text's vectors, of any number."""
    text = TensorSpec("encoder_hidden_states", "float32", ("batch", "words", 16))
    return Recipe(
        name="conditioned_unet_step",
        model=lambda: diffusers.UNet2DConditionModel(
            sample_size=8, block_out_channels=(16, 32), norm_num_groups=4, layers_per_block=1, cross_attention_dim=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=4,
        ),
        signature=Signature(
            inputs=(TensorSpec("sample", "float32", ("batch", 4, 8, 8)), TIME, text),
            ranges={"batch": BATCH, "words": SizeRange(min=2, max=12)},
        ),
        parity=FEW,
    )  # fmt: skip


class _Decoder(nn.Module):
    """The decoding half of an autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = diffusers.AutoencoderKL(
            block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.whole.decode(latent, return_dict=False)[0]


def image_decoder() -> Recipe:
    """An autoencoder's decoder, codes to images."""
    return Recipe(
        name="image_decoder", model=_Decoder, signature=Signature(inputs=(LATENT,), ranges={"batch": BATCH}), parity=FEW
    )


def diffusion_transformer() -> Recipe:
    """A transformer over patches of the code, led by the timestep and a class (DiT)."""
    classes = TensorSpec("class_labels", "int64", ("batch",), low=0, high=9, keyword=True)
    time = TensorSpec("timestep", "int64", ("batch",), low=0, high=999, keyword=True)
    return Recipe(
        name="diffusion_transformer",
        model=lambda: diffusers.DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2, sample_size=8, patch_size=2,
            num_embeds_ada_norm=10, norm_num_groups=4,
        ),
        signature=Signature(inputs=(HIDDEN, time, classes), ranges={"batch": BATCH}),
        parity=FEW,
    )  # fmt: skip
