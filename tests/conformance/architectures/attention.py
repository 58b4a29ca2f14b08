"""Attention of many kinds, and transformers built of it with ``torch.nn`` alone."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe

NEEDS: tuple[str, ...] = ()
RANGES = {"batch": SizeRange(max=16), "length": SizeRange(min=4, max=32)}


def _vectors(width: int = 16, name: str = "x", length: str = "length") -> TensorSpec:
    return TensorSpec(name, "float32", ("batch", length, width))


def transformer_encoder() -> Recipe:
    """``nn.TransformerEncoder`` over padded rows: the mask is false where a token is real, and at least one is."""
    return Recipe(
        name="transformer_encoder",
        model=_Encoder,
        signature=Signature(
            inputs=(_vectors(), TensorSpec("lengths", "int64", ("batch",), low=1, high=4)), ranges=RANGES
        ),
    )


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        padding = torch.arange(x.shape[1]).unsqueeze(0) >= lengths.unsqueeze(1)
        hidden = self.encoder(x, src_key_padding_mask=padding)
        return hidden.masked_fill(padding.unsqueeze(2), 0.0).sum(1) / lengths.unsqueeze(1)


def transformer_decoder() -> Recipe:
    """``nn.TransformerDecoder`` with a causal mask, over a memory of another length."""
    return Recipe(
        name="transformer_decoder",
        model=_Decoder,
        signature=Signature(
            inputs=(_vectors(name="target"), _vectors(name="memory", length="memory_length")),
            ranges={**RANGES, "memory_length": SizeRange(min=3, max=24)},
        ),
    )


class _Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32, batch_first=True), 2)

    def forward(self, target: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        length = target.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).triu(1)
        return self.decoder(target, memory, tgt_mask=causal)


def translator() -> Recipe:
    """``nn.Transformer`` whole, with learned positions."""
    return Recipe(
        name="translator",
        model=_Translator,
        signature=Signature(
            inputs=(
                TensorSpec("source", "int64", ("batch", "length"), high=59),
                TensorSpec("written", "int64", ("batch", "target"), high=59),
            ),
            ranges={**RANGES, "target": SizeRange(min=3, max=24)},
        ),
    )


class _Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(60, 16), nn.Embedding(32, 16)
        self.body = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
        self.head = nn.Linear(16, 60)

    def forward(self, source: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
        length = written.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).triu(1)
        return self.head(self.body(self._embed(source), self._embed(written), tgt_mask=causal))

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1]))


def small_gpt() -> Recipe:
    """A causal language model on scaled dot-product attention, its head tied to its embedding."""
    return Recipe(
        name="small_gpt",
        model=_SmallGPT,
        signature=Signature(inputs=(TensorSpec("tokens", "int64", ("batch", "length"), high=95),), ranges=RANGES),
    )


class _Causal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(24), nn.LayerNorm(24)
        self.qkv, self.out = nn.Linear(24, 72), nn.Linear(24, 24)
        self.feed = nn.Sequential(nn.Linear(24, 48), nn.GELU(approximate="tanh"), nn.Linear(48, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        parts = self.qkv(self.first(x)).view(batch, length, 3, 4, 6).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, 24))
        return x + self.feed(self.second(x))


class _SmallGPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(96, 24), nn.Embedding(32, 24)
        self.blocks = nn.Sequential(_Causal(), _Causal())
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 96, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def grouped_rotary() -> Recipe:
    """Rotary positions, grouped queries, RMS norm and a gated feed-forward: a block as in recent language models."""
    return Recipe(
        name="grouped_rotary", model=_GroupedRotary, signature=Signature(inputs=(_vectors(32),), ranges=RANGES)
    )


class _GroupedRotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.second = nn.RMSNorm(32), nn.RMSNorm(32)
        self.q, self.kv, self.out = nn.Linear(32, 32), nn.Linear(32, 16), nn.Linear(32, 32)
        self.gate, self.up, self.down = nn.Linear(32, 48), nn.Linear(32, 48), nn.Linear(48, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        inside = self.norm(x)
        q = self._turned(self.q(inside).view(batch, length, 4, 8).transpose(1, 2))
        k, v = self.kv(inside).view(batch, length, 2, 8).transpose(1, 2).chunk(2, dim=1)
        attended = F.scaled_dot_product_attention(q, self._turned(k), v, is_causal=True, enable_gqa=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, 32))
        inside = self.second(x)
        return x + self.down(F.silu(self.gate(inside)) * self.up(inside))

    @staticmethod
    def _turned(x: torch.Tensor) -> torch.Tensor:
        angle = torch.arange(x.shape[2], dtype=x.dtype).unsqueeze(1) * 10.0 ** -torch.arange(4, dtype=x.dtype)
        left, right = x.chunk(2, dim=3)
        return torch.cat((left * angle.cos() - right * angle.sin(), left * angle.sin() + right * angle.cos()), 3)


def linear_bias() -> Recipe:
    """Attention with a penalty for distance (ALiBi) instead of positions."""
    return Recipe(name="linear_bias", model=_LinearBias, signature=Signature(inputs=(_vectors(),), ranges=RANGES))


class _LinearBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.slopes = nn.Buffer(torch.tensor([0.5, 0.25]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        place = torch.arange(length)
        distance = (place.unsqueeze(0) - place.unsqueeze(1)).abs().to(x.dtype)
        scores = q @ k.transpose(2, 3) / 8**0.5 - self.slopes.view(2, 1, 1) * distance
        return (scores.softmax(3) @ v).transpose(1, 2).reshape(batch, length, 16)


def linear_attention() -> Recipe:
    """Attention without softmax, by a running sum: linear in the length."""
    return Recipe(
        name="linear_attention", model=_LinearAttention, signature=Signature(inputs=(_vectors(),), ranges=RANGES)
    )


class _LinearAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1
        sums = torch.einsum("blk,blv->blkv", k, self.v(x)).cumsum(1)
        return torch.einsum("blk,blkv->blv", q, sums) / (q * k.cumsum(1)).sum(2, keepdim=True)


def perceiver() -> Recipe:
    """Learned queries that attend to an input of any length, by ``nn.MultiheadAttention``."""
    return Recipe(name="perceiver", model=_Perceiver, signature=Signature(inputs=(_vectors(),), ranges=RANGES))


class _Perceiver(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(4, 16))
        self.cross = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen, weights = self.cross(self.queries.expand(x.shape[0], -1, -1), x, x)
        return self.head(seen.flatten(1)), weights


def patches() -> Recipe:
    """A vision transformer by hand: patches, a class token, learned positions."""
    images = TensorSpec("image", "float32", ("batch", 3, 24, 24))
    return Recipe(
        name="patches", model=_Patches, signature=Signature(inputs=(images,), ranges={"batch": SizeRange(max=16)})
    )


class _Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 24, 8, stride=8)
        self.token, self.positions = nn.Parameter(torch.randn(24)), nn.Parameter(torch.randn(10, 24))
        self.body = nn.TransformerEncoderLayer(24, 4, 48, activation="gelu", batch_first=True, norm_first=True)
        self.head = nn.Linear(24, 6)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        cut = self.cut(image).flatten(2).transpose(1, 2)
        token = self.token.expand(cut.shape[0], 1, -1)
        return self.head(self.body(torch.cat((token, cut), 1) + self.positions)[:, 0])
