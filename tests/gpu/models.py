"""Models that steps export: without a shape chain, with one, and one that is large enough to keep a GPU busy."""

from __future__ import annotations

import torch
from torch import nn


class Mlp(nn.Module):
    """``(batch, 16)`` to ``(batch, 8)``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Two layers."""
        return self.layers(x)  # type: ignore[no-any-return]


class Cnn(nn.Module):
    """``(batch, 3, 32, 32)`` to ``(batch, 10)``."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.BatchNorm2d(4 * width), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Three convolutions, the mean over places, and a linear layer."""
        return self.head(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


class Chain(nn.Module):
    """``(batch, length, 8)`` to ``(batch, 4)``, both dimensions dynamic: its reshapes compute sizes from sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rows of all sequences at once, then weighted by their place and summed for each sequence."""
        batch, length = x.shape[0], x.shape[1]
        hidden = torch.tanh(self.inner(x.reshape(batch * length, 8))).reshape(batch, length, 16)
        places = torch.arange(length, device=x.device, dtype=x.dtype) / length
        return self.outer((hidden * places[:, None]).sum(1))  # type: ignore[no-any-return]
