"""Vision, speech and joint models of Hugging Face's ``transformers``, small and with random weights."""

from __future__ import annotations

import torch
import transformers
from torch import nn

from bench.parity.spec import ParitySpec
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe

NEEDS = ("transformers",)
BATCH = SizeRange(max=8)
FEW = ParitySpec(rows_count=128)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def _pixels(side: int) -> Signature:
    image = TensorSpec("pixel_values", "float32", ("batch", 3, side, side), keyword=True)
    return Signature(inputs=(image,), ranges={"batch": BATCH})


def vit() -> Recipe:
    """ViT with a head for classes."""
    config = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8, num_labels=5)
    return Recipe(
        name="vit", model=lambda: transformers.ViTForImageClassification(config), signature=_pixels(32), parity=FEW
    )


def dinov2() -> Recipe:
    """DINOv2: its features per patch, and those of the class token."""
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    return Recipe(name="dinov2", model=lambda: transformers.Dinov2Model(config), signature=_pixels(32), parity=FEW)


def swin() -> Recipe:
    """Swin: attention within windows that are shifted."""
    config = transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4
    )
    return Recipe(name="swin", model=lambda: transformers.SwinModel(config), signature=_pixels(32), parity=FEW)


def segformer() -> Recipe:
    """SegFormer: a class for every fourth pixel."""
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[16, 32], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=32, num_labels=4,
    )  # fmt: skip
    return Recipe(
        name="segformer",
        model=lambda: transformers.SegformerForSemanticSegmentation(config),
        signature=Signature(
            inputs=(TensorSpec("pixel_values", "float32", ("batch", 3, "height", "width"), keyword=True),),
            ranges={"batch": BATCH, "height": SizeRange(min=32, max=64), "width": SizeRange(min=32, max=64)},
        ),
        parity=FEW,
    )


def convnext_v2() -> Recipe:
    """ConvNeXt v2, with global response normalisation."""
    config = transformers.ConvNextV2Config(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_labels=5)
    return Recipe(
        name="convnext_v2",
        model=lambda: transformers.ConvNextV2ForImageClassification(config),
        signature=_pixels(64),
        parity=FEW,
    )


def clip_text() -> Recipe:
    """CLIP's text side, pooled at the end of the text."""
    config = transformers.CLIPTextConfig(**SMALL, vocab_size=200, max_position_embeddings=32, eos_token_id=199)
    ids = TensorSpec("input_ids", "int64", ("batch", "length"), high=199, keyword=True)
    return Recipe(
        name="clip_text",
        model=lambda: transformers.CLIPTextModel(config),
        signature=Signature(inputs=(ids,), ranges={"batch": BATCH, "length": SizeRange(min=4, max=32)}),
    )


def clip_vision() -> Recipe:
    """CLIP's vision side."""
    config = transformers.CLIPVisionConfig(**SMALL, image_size=32, patch_size=8)
    return Recipe(
        name="clip_vision", model=lambda: transformers.CLIPVisionModel(config), signature=_pixels(32), parity=FEW
    )


def wav2vec2() -> Recipe:
    """Wav2Vec 2: convolutions over the wave, then a transformer; letters by CTC."""
    config = transformers.Wav2Vec2Config(
        **SMALL, vocab_size=32, conv_dim=(16, 16, 16), conv_stride=(5, 4, 2), conv_kernel=(10, 8, 4),
        num_feat_extract_layers=3, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    wave = TensorSpec("input_values", "float32", ("batch", "samples"), keyword=True)
    return Recipe(
        name="wav2vec2",
        model=lambda: transformers.Wav2Vec2ForCTC(config),
        signature=Signature(inputs=(wave,), ranges={"batch": BATCH, "samples": SizeRange(min=800, max=3200)}),
        parity=FEW,
    )


class _WhisperEncoder(nn.Module):
    """The encoder, whose inputs are a fixed number of frames."""

    def __init__(self) -> None:
        super().__init__()
        config = transformers.WhisperConfig(
            vocab_size=200, d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, num_mel_bins=20, max_source_positions=40,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )  # fmt: skip
        self.encoder = transformers.WhisperModel(config).encoder

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.encoder(features).last_hidden_state


def whisper_encoder() -> Recipe:
    """Whisper's encoder on eighty frames."""
    return Recipe(
        name="whisper_encoder",
        model=_WhisperEncoder,
        signature=Signature(inputs=(TensorSpec("features", "float32", ("batch", 20, 80)),), ranges={"batch": BATCH}),
        parity=FEW,
    )


def audio_spectrogram() -> Recipe:
    """The audio spectrogram transformer, with a head for classes."""
    config = transformers.ASTConfig(**SMALL, max_length=64, num_mel_bins=32, patch_size=8, num_labels=4)
    frames = TensorSpec("input_values", "float32", ("batch", 64, 32), keyword=True)
    return Recipe(
        name="audio_spectrogram",
        model=lambda: transformers.ASTForAudioClassification(config),
        signature=Signature(inputs=(frames,), ranges={"batch": BATCH}),
        parity=FEW,
    )
