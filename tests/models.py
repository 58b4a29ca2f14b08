"""Small models with the shapes of trouble: several inputs, keywords, nested results, control flow, frozen sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from export.build import Source
from export.signature import Signature, SizeRange, TensorSpec


class Mlp(nn.Module):
    """``(batch, 4)`` to ``(batch, 3)``."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 16)
        self.outer = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(torch.tanh(self.inner(x)))


class ConvNorm(nn.Module):
    """``(batch, 1, 8, 8)`` to ``(batch, 5)``, with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(8 * 64, 5)
        self.norm.running_mean.normal_()  # type: ignore[union-attr]
        self.norm.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.out(self.drop(torch.relu(self.norm(self.conv(image))).flatten(1)))


class Pointwise(nn.Module):
    """``(batch, 4)`` to the same: no matrix product that would check its operands."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) * 2 + x


class Masked(nn.Module):
    """A boolean and an integer input, a boolean and a float16 output."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.out(x) * mask.unsqueeze(-1) + shift.unsqueeze(-1)
        return y > 0, y.half()


class Namesake(nn.Module):
    """Its output is called as its traced inner values are: ``linear``, ``tanh``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inner = torch.tanh(self.first(x))
        return inner * 2, inner + x


@dataclass
class Answer:
    """A nested result."""

    logits: torch.Tensor
    extras: dict[str, tuple[torch.Tensor, torch.Tensor]]


class Nested(nn.Module):
    """A positional and a keyword input, two dynamic dimensions, a dataclass with a dict of tuples as result."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.out = nn.Linear(6, 4)

    def forward(self, tokens: torch.Tensor, *, scale: torch.Tensor) -> Answer:
        hidden = self.embed(tokens) * scale[:, None, None]
        logits = self.out(hidden.mean(1))
        return Answer(logits=logits, extras={"pair": (hidden, logits.argmax(-1))})


class Frozen(nn.Module):
    """Accepts any batch, but its second dimension only as it was traced."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight[: x.shape[1]] if x.shape[1] == 5 else x[:, :5] * self.weight[: x.shape[1]]


class Branch(nn.Module):
    """Python control flow on data: cannot be traced by torch.export, can be scripted."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            return self.out(x)
        return -self.out(x)


class ScriptRaises(nn.Module):
    """Compiles to TorchScript, and raises there at every call; runs in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            raise RuntimeError("no answer from a script")
        return self.out(x)


class Steps(nn.Module):
    """A loop whose number of steps depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.out(x)
        while bool(y.abs().max() > 0.5):
            y = torch.sin(y) * 0.7
        return y, y.sum(1)


class Recurrent(nn.Module):
    """An LSTM over a dynamic time, one direction at a time: torch.export fixes the time."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = nn.LSTM(6, 8, batch_first=True)
        self.back = nn.LSTM(6, 8, batch_first=True)

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        weight = keep.unsqueeze(-1).to(x.dtype)
        ahead = self.ahead(x * weight)[0]
        back = self.back((x * weight).flip(1))[0]
        return torch.cat((ahead, back.flip(1)), -1) * weight


class Halved(nn.Module):
    """A small U-Net: sizes are halved, rounded up, and the result resized back; any size is fine."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.last = nn.Conv2d(8, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        fine = torch.relu(self.first(image))
        coarse = torch.relu(self.inner(self.pool(self.pool(fine))))
        coarse = nn.functional.interpolate(coarse, size=fine.shape[-2:])
        return self.last(torch.cat((fine, coarse), 1))


class AlwaysDrops(nn.Module):
    """Random in eval mode too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


def rows(name: str, *shape: int | str, dtype: str = "float32", **more: float | bool) -> TensorSpec:
    return TensorSpec(name, dtype, ("batch", *shape), **more)  # type: ignore[arg-type]


SIGNATURES = {
    "Mlp": Signature(inputs=(rows("x", 4),), output_names=("y",), ranges={"batch": SizeRange(max=4096)}),
    "Masked": Signature(
        inputs=(rows("x", 4), rows("mask", dtype="bool"), rows("shift", dtype="int32", low=-3, high=3)),
        ranges={"batch": SizeRange(max=300)},
    ),
    "Namesake": Signature(
        inputs=(rows("x", 4),), output_names=("linear", "tanh"), ranges={"batch": SizeRange(max=300)}
    ),
    "Pointwise": Signature(inputs=(rows("x", 4),), ranges={"batch": SizeRange(max=64)}),
    "ConvNorm": Signature(inputs=(rows("image", 1, 8, 8),), ranges={"batch": SizeRange(max=512)}),
    "Nested": Signature(
        inputs=(rows("tokens", "length", dtype="int64", high=19), rows("scale", keyword=True)),
        ranges={"batch": SizeRange(max=300), "length": SizeRange(min=2, max=40)},
    ),
    "Frozen": Signature(
        inputs=(rows("x", "width"),), ranges={"batch": SizeRange(max=64), "width": SizeRange(min=5, max=50)}
    ),
    "Branch": Signature(inputs=(rows("x", 4),), ranges={"batch": SizeRange(max=300)}),
    "ScriptRaises": Signature(inputs=(rows("x", 4),), ranges={"batch": SizeRange(max=64)}),
    "Steps": Signature(inputs=(rows("x", 4),), ranges={"batch": SizeRange(max=16)}),
    "Recurrent": Signature(
        inputs=(rows("x", "time", 6), rows("keep", "time", dtype="bool")),
        ranges={"batch": SizeRange(max=16), "time": SizeRange(min=2, max=40)},
    ),
    "Halved": Signature(
        inputs=(rows("image", 1, "height", "width"),),
        ranges={"batch": SizeRange(max=4), "height": SizeRange(min=5, max=64), "width": SizeRange(min=6, max=64)},
    ),
    "AlwaysDrops": Signature(inputs=(rows("x", 4),), ranges={"batch": SizeRange(max=64)}),
}


def make(name: str) -> nn.Module:
    """A model by its class name, always with the same weights, in eval mode."""
    torch.manual_seed(7)
    module: nn.Module = globals()[name]()
    return module.eval()


def source(name: str) -> Source:
    return Source(function="tests.models:make", argument=name)
