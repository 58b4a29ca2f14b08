"""Ordinary heads: on a right artifact of any of them parity passes, after a network and on the inputs themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.parity.spec import ParitySpec
from export.build import Source
from export.signature import Signature, SizeRange, TensorSpec
from tests.model_run import ModelRun

fn = nn.functional
HEADS: dict[str, Callable[[Tensor], object]] = {
    "softmax": lambda z: z.softmax(-1),
    "log softmax": lambda z: z.log_softmax(-1),
    "sigmoid": lambda z: z.sigmoid(),
    "softplus": fn.softplus,
    "softplus of what is large": lambda z: fn.softplus(10 * z),
    "exp": lambda z: z.exp(),
    "exponential of what is large": lambda z: (5 * z).exp(),
    "tanh to a hundred": lambda z: 100 * torch.tanh(z),
    "normalize": lambda z: fn.normalize(z, dim=-1),
    "cumsum": lambda z: z.cumsum(-1),
    "softsign": lambda z: z / (1 + z.abs()),
    "root": lambda z: z.abs().sqrt(),
    "root of a sum": lambda z: (z * z + 1e-6).sqrt(),
    "layer norm": lambda z: fn.layer_norm(z, (8,)),
    "var": lambda z: z.var(-1),
    "std": lambda z: z.std(-1),
    "mean and deviation": lambda z: (z[:, :4], fn.softplus(z[:, 4:]) + 1e-4),
    "mixture": lambda z: (z[:, :4].softmax(-1), z[:, 4:6], z[:, 6:].exp()),
    "relu": lambda z: z.relu(),
    "gate": lambda z: (z > 0).float() * z,
    "logsumexp": lambda z: z.logsumexp(-1),
    "entropy": lambda z: -(z.softmax(-1) * z.log_softmax(-1)).sum(-1),
    "square": lambda z: z**2,
    "cube": lambda z: z**3,
    "reciprocal": lambda z: 1 / (1 + z * z),
    "log1p": lambda z: torch.log1p(z.abs()),
    "product": lambda z: z.prod(-1),
    "margin": lambda z: z.topk(2).values[:, 0] - z.topk(2).values[:, 1],
    "argmax": lambda z: (z.argmax(-1), z.softmax(-1)),
    "round": lambda z: z.round(),
    "clamp": lambda z: z.clamp(0, 1),
    "cosine similarity": lambda z: fn.cosine_similarity(z[:, :4], z[:, 4:]),
    "distance": lambda z: torch.linalg.vector_norm(z[:, :4] - z[:, 4:], dim=-1),
    "sharp softmax": lambda z: (z * 20).softmax(-1),
    "softmax at a low temperature": lambda z: (z / 0.05).softmax(-1),
    "sine": lambda z: torch.sin(10 * z),
    "gelu": fn.gelu,
    "mish": fn.mish,
    "logit": lambda z: torch.logit(z.sigmoid().clamp(1e-4, 1 - 1e-4)),
    "divergence": lambda z: (0.5 * (z[:, :4] ** 2 + z[:, 4:].exp() - 1 - z[:, 4:])).sum(-1),
    "hinge": lambda z: (1 - z).clamp(min=0),
    "angle": lambda z: torch.atan2(z[:, 0], z[:, 1]),
    "log probability": lambda z: -0.5 * ((z[:, :4] / fn.softplus(z[:, 4:])) ** 2),
    "offset": lambda z: 1500 + 400 * z,
    "percent": lambda z: 100 * z.sigmoid(),
    "without mean": lambda z: z - z.mean(-1, keepdim=True),
    "standardised": lambda z: (z - z.mean(-1, keepdim=True)) / (z.std(-1, keepdim=True) + 1e-5),
}
SIGNATURE = Signature(inputs=(TensorSpec("x", "float32", ("batch", 8)),), ranges={"batch": SizeRange(max=300)})
QUICK = ("log softmax", "mixture")


class Headed(nn.Module):
    """A head on a small network, or on the input itself."""

    def __init__(self, front: str, head: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8)] if front == "network" else []
        self.front, self.head = nn.Sequential(*layers), HEADS[head]

    def forward(self, x: Tensor) -> object:
        return self.head(self.front(x))


def make(name: str) -> nn.Module:
    front, _, head = name.partition(": ")
    return Headed(front, head).eval()


@pytest.mark.parametrize(
    "head", [head if head in QUICK else pytest.param(head, marks=pytest.mark.slow) for head in HEADS]
)
@pytest.mark.parametrize("front", ["network", pytest.param("input", marks=pytest.mark.slow)])
def test_a_right_artifact_of_an_ordinary_head_passes(front: str, head: str, tmp_path: Path) -> None:
    source = Source(function=f"{__name__}:make", argument=f"{front}: {head}")
    run = ModelRun(source, SIGNATURE, tmp_path / "run", ParitySpec(rows_count=256))
    for backend in ("exported", "onnx"):
        report = run.judge(run.build(backend, tmp_path / backend))
        assert report.status == "pass", f"{backend}: {report.reasons}"
