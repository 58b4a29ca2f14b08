"""Small models that an exporter or a runtime refuses, each for a reason of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

SCALES = {0: 2.0}
NOTE = {"reason": "TorchScript does not expand keywords"}


class Plain(nn.Module):
    """A helper that TorchScript cannot compile: what calls it is traced."""

    def passed_on(self, x: torch.Tensor, **_: object) -> torch.Tensor:
        return x


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


class Equal(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if torch.equal(x, x.flip(0)) else x + 1


class Numpy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_numpy(np.sin(x.detach().numpy()))


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(9, 7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.positions[: x.shape[0]]


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        enlarged = nn.functional.interpolate(x[None, None], scale_factor=2, mode="bicubic")
        return enlarged[0, 0, :, ::2] + torch.cat((x, x))


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(7, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lengths = (x[:, 0] > 0).long() + 1
        rows = torch.stack((x, x), 1)
        packed = nn.utils.rnn.pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
        return self.gru(packed)[1][0]


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("adjacency", torch.eye(7).to_sparse())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sparse.mm(self.adjacency, x.T).T


class Nested(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nested.nested_tensor([x[0], x[1]]).to_padded_tensor(0.0)


class Forces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Linear(7, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            place = x.detach().requires_grad_(True)
            return torch.autograd.grad(self.energy(place).sum(), place)[0]


class Gradients(Forces):
    """The same, as a class of its own: TorchScript compiles a class once in a process."""


class ChangedParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            self.weight.mul_(2)
        return x * self.weight


class ChangedInferenceTensor(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            y = x * 2
        y.add_(1)
        return y


class HookedWeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.utils.weight_norm(nn.Linear(7, 3))
        self.layer(torch.zeros(1, 7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class Spectrum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.ifft(torch.zeros_like(torch.fft.fft(x))).real + x


class Cholesky(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.cholesky(x.T @ x + torch.eye(7))


class ChangedConstant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.ones(7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.factor.mul_(0.5)
        return x * self.factor


class Histogram(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.histc(x, 4)


class HalfPrecise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(7, 3).to(torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.to(torch.bfloat16)).float()


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(7, 7), nn.LayerNorm(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.layers(x.relu()).float()


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * x

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


class OwnGradient(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Square.apply(x)  # type: ignore[no-untyped-call]


class Counting(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x = self.passed_on(x, **NOTE)
        return x + 1 if self.calls % 2 else x * 2


class Indexed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(7, 7), nn.Linear(7, 7)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number in range(2):
            x = self.layers[number](x)
        return x


class Listed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * sum(x[0].tolist())


class Global(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * SCALES[0]


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.settings = object()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.settings is None else x + 1


class Setting(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x * 2
        return x + 1


class Variadic(nn.Module):
    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return tensors[0] + 1


class Trying(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        try:
            return x + 1
        except ValueError:
            return x
