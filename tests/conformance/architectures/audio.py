"""Speech and sound networks of ``torchaudio``, with random weights, over waves and frames of any length."""

from __future__ import annotations

from typing import Any

import torch
import torchaudio
from torch import nn

from bench.parity.spec import ParitySpec
from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe

NEEDS = ("torchaudio",)
FEW = ParitySpec(rows_count=64)
BATCH = SizeRange(max=8)


class _Conformer(nn.Module):
    """Frames and how many of them are real, at least one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torchaudio.models.Conformer(
            input_dim=16, num_heads=4, ffn_dim=32, num_layers=2, depthwise_conv_kernel_size=7
        )

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        lengths = torch.full((frames.shape[0],), frames.shape[1], dtype=torch.int64)
        return self.body(frames, lengths)[0]


def conformer() -> Recipe:
    """Convolution and attention in turn, over frames of any number."""
    return Recipe(
        name="conformer",
        model=_Conformer,
        signature=Signature(
            inputs=(TensorSpec("frames", "float32", ("batch", "frames", 16)),),
            ranges={"batch": BATCH, "frames": SizeRange(min=8, max=32)},
        ),
        parity=FEW,
    )


class _Spectrogram(nn.Module):
    """The logarithm of a mel spectrogram, and convolutions over it."""

    def __init__(self) -> None:
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(sample_rate=8000, n_fft=128, hop_length=64, n_mels=16)
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        )

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return self.body(torch.log(self.mel(wave) + 1e-3).unsqueeze(1))


def spectrogram_cnn() -> Recipe:
    """A wave to its mel spectrogram to a class."""
    return Recipe(
        name="spectrogram_cnn",
        model=_Spectrogram,
        signature=Signature(
            inputs=(TensorSpec("wave", "float32", ("batch", "samples")),),
            ranges={"batch": BATCH, "samples": SizeRange(min=512, max=2048)},
        ),
        parity=FEW,
    )


def wav2letter() -> Recipe:
    """Convolutions from frames to letters, with an eighth of the usual channels."""
    return Recipe(
        name="wav2letter",
        model=_Wav2Letter,
        signature=Signature(
            inputs=(TensorSpec("frames", "float32", ("batch", 13, "frames")),),
            ranges={"batch": BATCH, "frames": SizeRange(min=32, max=64)},
        ),
        parity=FEW,
    )


class _Wav2Letter(torchaudio.models.Wav2Letter):  # type: ignore[misc]
    """Its own layers would have 23 million parameters."""

    def __init__(self) -> None:
        super().__init__(num_classes=12, input_type="mfcc", num_features=13)
        widths = iter([13, *[31] * 8, 250, 250, 12])
        before = next(widths)
        for index, layer in enumerate(self.acoustic_model):
            if isinstance(layer, nn.Conv1d):
                after = next(widths)
                narrow: Any = nn.Conv1d
                self.acoustic_model[index] = narrow(before, after, layer.kernel_size, layer.stride, layer.padding)
                before = after


def deep_speech() -> Recipe:
    """DeepSpeech: linear layers around a bidirectional RNN."""
    return Recipe(
        name="deep_speech",
        model=lambda: torchaudio.models.DeepSpeech(n_feature=16, n_hidden=32, n_class=12),
        signature=Signature(
            inputs=(TensorSpec("frames", "float32", ("batch", 1, "frames", 16)),),
            ranges={"batch": BATCH, "frames": SizeRange(min=8, max=32)},
        ),
        parity=FEW,
    )


def separator() -> Recipe:
    """Conv-TasNet: a mixture of two voices, taken apart."""
    return Recipe(
        name="separator",
        model=lambda: torchaudio.models.ConvTasNet(
            num_sources=2, enc_kernel_size=16, enc_num_feats=32, msk_kernel_size=3, msk_num_feats=16,
            msk_num_hidden_feats=32, msk_num_layers=3, msk_num_stacks=1,
        ),
        signature=Signature(
            inputs=(TensorSpec("wave", "float32", ("batch", 1, "samples")),),
            ranges={"batch": BATCH, "samples": SizeRange(min=256, max=1024)},
        ),
        parity=FEW,
    )  # fmt: skip
