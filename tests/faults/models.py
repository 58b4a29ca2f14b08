"""The models that faults are planted in: small ones, with the parts of real networks."""

from __future__ import annotations

import json
import math

import torch
from torch import nn

from export.build import Source
from export.signature import Signature, SizeRange, TensorSpec


class Mlp(nn.Module):
    """``(batch, 6)`` to ``(batch, 4)``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 32)
        self.second = nn.Linear(32, 32)
        self.head = nn.Linear(32, 4)
        self.act = nn.Tanh()
        self.gate = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.act(self.first(x))
        hidden = self.gate(self.second(hidden))
        return self.head(hidden)


class Cnn(nn.Module):
    """``(batch, 1, 8, 8)`` to ``(batch, 5)``: convolutions, batch norm, pooling, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(16)
        self.average = nn.AvgPool2d(2)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(16 * 4, 5)
        for norm in (self.norm1, self.norm2):
            norm.running_mean.normal_(0.0, 0.3)  # type: ignore[union-attr]
            norm.running_var.uniform_(0.3, 2.0)  # type: ignore[union-attr]
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0.0, 0.3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        image = self.pool(torch.relu(self.norm1(self.conv1(image))))
        image = self.average(torch.relu(self.norm2(self.conv2(image))))
        return self.head(self.drop(image.flatten(1)))


class Gru(nn.Module):
    """``(batch, 7, 5)`` to ``(batch, 3)``: the last step of a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 16, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.rnn(steps)
        return self.head(hidden[:, -1])


class GruOneStepEarly(Gru):
    """Off by one: the step before the last."""

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.rnn(steps)
        return self.head(hidden[:, -2])


class GruWithoutItsFirstStep(Gru):
    """Off by one: a slice that begins too late."""

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.rnn(steps[:, 1:])
        return self.head(hidden[:, -1])


class Attention(nn.Module):
    """Causal attention with two heads."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.softmax = nn.Softmax(dim=-1)
        self.register_buffer("mask", torch.triu(torch.full((6, 6), -1e9), 1))

    def scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return q @ k.transpose(-2, -1) / math.sqrt(8) + self.mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = self.softmax(self.scores(q, k)) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class UnscaledAttention(Attention):
    """Forgets the square root."""

    def scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return q @ k.transpose(-2, -1) + self.mask


class AttentionToTheFuture(Attention):
    """Forgets the mask."""

    def scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return q @ k.transpose(-2, -1) / math.sqrt(8)


class Block(nn.Module):
    """One layer of an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(16)
        self.attention = Attention()
        self.norm2 = nn.LayerNorm(16)
        self.wide = nn.Linear(16, 64)
        self.act = nn.GELU()
        self.narrow = nn.Linear(64, 16)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.drop(self.narrow(self.act(self.wide(self.norm2(x)))))


class BlockWithoutResidual(Block):
    """Forgets to add its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return self.drop(self.narrow(self.act(self.wide(self.norm2(x)))))


class Encoder(nn.Module):
    """``(batch, 6, 16)`` to ``(batch, 4)``: two layers of a transformer's encoder, averaged over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Block()
        self.second = Block()
        self.head = nn.Linear(16, 4)
        for norm in (self.first.norm1, self.first.norm2, self.second.norm1, self.second.norm2):
            nn.init.uniform_(norm.weight, 0.5, 1.5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(tokens)).mean(1))


class SummingEncoder(Encoder):
    """Reduces by the sum instead of the mean."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(tokens)).sum(1))


class SwappingEncoder(Encoder):
    """Takes its layers in the other order."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.first(self.second(tokens)).mean(1))


class Pair(nn.Module):
    """Two inputs of one shape, two outputs of one shape: everything that can be swapped."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(5, 12)
        self.right = nn.Linear(5, 12)
        self.total = nn.Linear(12, 3)
        self.gap = nn.Linear(12, 3)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        left, right = torch.sigmoid(self.left(a)), torch.sigmoid(self.right(b))
        return self.total(left + right), self.gap(left - right)


class PairWithInputsSwapped(Pair):
    """Reads each input as the other."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(b, a)


class PairWithOutputsSwapped(Pair):
    """Returns each output as the other."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        one, two = super().forward(a, b)
        return two, one


class Tokens(nn.Module):
    """``(batch, length)`` integers to ``(batch, 3)``: an embedding, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(ids).mean(1))


class TokensOffByOne(Tokens):
    """Looks up the neighbour's row."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed((ids + 1).clamp(max=29)).mean(1))


class TokensWithoutTheLast(Tokens):
    """Averages all tokens but the last."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        last = torch.arange(ids.shape[1], device=ids.device) == ids.shape[1] - 1
        return self.head(self.embed(ids).masked_fill(last[None, :, None], 0.0).mean(1))


class Branching(nn.Module):
    """Control flow on values: one branch or the other."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.sum() > 0):
            return self.head(x)
        return -self.head(x)


class Looping(nn.Module):
    """Control flow on values: so many steps as it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = 0
        while bool(x.abs().amax() > 0.5) and steps < 20:
            x = torch.tanh(self.step(x)) * 0.8
            steps += 1
        return x


class Counting(nn.Module):
    """State: each call adds to a buffer that the answer depends on."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return self.head(x) + self.seen


def _rows(name: str, *shape: int | str, dtype: str = "float32", high: float | None = None) -> TensorSpec:
    return TensorSpec(name, dtype, ("batch", *shape), high=high)


_BATCH = {"batch": SizeRange(max=512)}
SIGNATURES = {
    "Mlp": Signature(inputs=(_rows("x", 6),), ranges=_BATCH),
    "Cnn": Signature(inputs=(_rows("image", 1, 8, 8),), ranges=_BATCH),
    "Gru": Signature(inputs=(_rows("steps", 7, 5),), ranges=_BATCH),
    "Encoder": Signature(inputs=(_rows("tokens", 6, 16),), ranges=_BATCH),
    "Pair": Signature(inputs=(_rows("a", 5), _rows("b", 5)), output_names=("total", "gap"), ranges=_BATCH),
    "Tokens": Signature(
        inputs=(_rows("ids", "length", dtype="int64", high=29),),
        ranges={**_BATCH, "length": SizeRange(min=2, max=24)},
    ),
    "Branching": Signature(inputs=(_rows("x", 4),), ranges=_BATCH),
    "Looping": Signature(inputs=(_rows("x", 4),), ranges=_BATCH),
    "Counting": Signature(inputs=(_rows("x", 4),), ranges=_BATCH),
}
TRACEABLE = ("Mlp", "Cnn", "Gru", "Encoder", "Pair", "Tokens")


def make(argument: str) -> nn.Module:
    """A model in eval mode, by the JSON of its name, its weights' seed, and the fault to plant in it, if any."""
    asked = json.loads(argument)
    torch.manual_seed(asked["seed"])
    module: nn.Module = globals()[asked["model"]]().eval()
    if asked["fault"]:
        from tests.faults.kinds import BY_NAME

        BY_NAME[asked["fault"]].edit(module)
    return module


def source(model: str, seed: int = 7, fault: str | None = None) -> Source:
    return Source(
        function="tests.faults.models:make", argument=json.dumps({"model": model, "seed": seed, "fault": fault})
    )
