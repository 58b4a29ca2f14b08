"""The kinds of fault: what is edited, which levels must fail, and where the fault lies.

An *in the model* fault is planted before the artifact is built from it; an *in the file* fault is edited into a built
artifact. ``edit`` returns the path of the module at fault, or None where it has no place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from export.arrays import to_torch
from tests.faults import models as zoo

Where = Literal["model", "onnx", "file"]
NUMBERS = ("error", "systematic", "structure")
"""Levels at which wrong numbers show; NaN is a fault of structure."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of fault, and the models that it can be planted in."""

    name: str
    where: Where
    models: tuple[str, ...]
    edit: Callable[[Any], str | None]
    levels: tuple[str, ...] = NUMBERS
    """At least one of these must fail."""
    backends: tuple[str, ...] = ("exported", "onnx", "torchscript")
    """For a fault in the model: what the artifact is built as; the first one in the quick run."""
    placed: bool = True
    """Whether one module is at fault, so that the locator can be asked for it."""


def _first(module: nn.Module, *kinds: type[nn.Module]) -> tuple[str, Any]:
    """Path and module of the first part of a kind."""
    return next((path, part) for path, part in module.named_modules() if isinstance(part, kinds))


def _last(module: nn.Module, *kinds: type[nn.Module]) -> tuple[str, Any]:
    return [(path, part) for path, part in module.named_modules() if isinstance(part, kinds)][-1]


def _replace(module: nn.Module, path: str, part: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, part.eval())


def _weighted(module: nn.Module) -> tuple[str, torch.Tensor]:
    """Path and weight of the second part that has a matrix: not the first, so that errors are inherited by others."""
    found = [
        (name.rpartition(".")[0], parameter) for name, parameter in module.named_parameters() if parameter.dim() >= 2
    ]
    return found[min(1, len(found) - 1)]


def _on_weight(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[nn.Module], str]:
    def edit(module: nn.Module) -> str:
        path, weight = _weighted(module)
        with torch.no_grad():
            weight.copy_(change(weight.clone()))
        return path

    return edit


def _scale_largest(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(weight: torch.Tensor) -> torch.Tensor:
        weight.view(-1)[weight.abs().argmax()] *= factor
        return weight

    return change


def _quantised(weight: torch.Tensor, wrong: float) -> torch.Tensor:
    scale = weight.abs().max() / 127
    return (weight / scale).round().clamp(-128, 127) * scale * wrong


def _around(
    kinds: tuple[type[nn.Module], ...],
    before: Callable[[Any], Any] | None = None,
    after: Callable[[Any], Any] | None = None,
) -> Callable[[nn.Module], str]:
    """Change what goes into, or comes out of, the last part of a kind."""

    def edit(module: nn.Module) -> str:
        path, part = _last(module, *kinds)
        plain = type(part)

        def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
            return (after or _same)(plain.forward(self, (before or _same)(x)))  # type: ignore[no-any-return]

        part.__class__ = type(f"Changed{plain.__name__}", (plain,), {"forward": forward})
        return path

    return edit


def _same(x: Any) -> Any:
    return x


def _become(part_type: type[nn.Module], other: type[nn.Module]) -> Callable[[nn.Module], str]:
    """Exchange the class of the last part: the same weights under another forward."""

    def edit(module: nn.Module) -> str:
        path, part = _last(module, part_type)
        part.__class__ = other
        return path

    return edit


def _setting(kinds: tuple[type[nn.Module], ...], name: str, change: Callable[[Any], Any]) -> Callable[[nn.Module], str]:
    """Another value for a setting of the first part of a kind."""

    def edit(module: nn.Module) -> str:
        path, part = _first(module, *kinds)
        setattr(part, name, change(getattr(part, name)))
        return path

    return edit


def _exchange(kind: type[nn.Module], other: Callable[[Any], nn.Module]) -> Callable[[nn.Module], str]:
    def edit(module: nn.Module) -> str:
        path, part = _first(module, kind)
        _replace(module, path, other(part))
        return path

    return edit


class _DropAlways(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.3, training=True)


class _NormByBatch(nn.Module):
    """Batch norm as it is in training."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)
        self.register_buffer("num_batches_tracked", norm.num_batches_tracked)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True)


def _stale(module: nn.Module) -> None:
    """The weights of a step earlier: all of them off by a little."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1e-4 * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator))


def _tf32(x: torch.Tensor) -> torch.Tensor:
    """Ten bits of mantissa, as the tensor cores of a GPU read float32 by default in convolutions (Veltkamp's split)."""
    large = x * (2.0**13 + 1)
    return large - (large - x)


def _nan_in_rare_rows(module: nn.Module) -> str:
    """NaN in the first value of a row where it is larger than in all but one of a thousand rows."""
    _, part = _last(module, nn.Linear)
    seen: list[torch.Tensor] = []
    signature = zoo.SIGNATURES[type(module).__name__]
    with part.register_forward_hook(lambda _, __, answer: seen.append(answer)), torch.no_grad():
        module(*[to_torch(array) for array in signature.example(signature.sizes_at(4096), seed=3).values()])
    limit = float(seen[0][..., 0].flatten().sort().values[-4])
    return _around(_L, after=lambda x: torch.where((x > limit) & _first_value(x), torch.nan, x))(module)


def _first_value(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.ones_like(x[..., :1]), torch.zeros_like(x[..., 1:])], -1) > 0


def _no_bias(module: nn.Module) -> str:
    path, part = _last(module, nn.Linear)
    with torch.no_grad():
        part.bias.zero_()
    return path


def _gates_swapped(module: nn.Module) -> str:
    rnn = module.get_submodule("rnn")
    with torch.no_grad():
        for weight in rnn.parameters():
            reset, update, new = weight.clone().chunk(3)
            weight.copy_(torch.cat([update, reset, new]))
    return "rnn"


def _row_swapped(weight: torch.Tensor) -> torch.Tensor:
    return weight[[1, 0, *range(2, len(weight))]]


def _with(part: nn.Module, **settings: Any) -> nn.Module:
    for name, value in settings.items():
        setattr(part, name, value)
    return part


_ALL = zoo.TRACEABLE
_LINEAR = ("Mlp", "Cnn", "Gru", "Encoder", "Pair", "Tokens")
_WEIGHTS = ("weights",)
_EVERY = ("exported", "onnx", "torchscript", "aotinductor", "compile")
_L = (nn.Linear,)
_NORMS = (nn.BatchNorm2d, nn.LayerNorm)


def _in_model(name: str, models: tuple[str, ...], edit: Callable[[Any], str | None], **more: Any) -> Kind:
    return Kind(name=name, where="model", models=models, edit=edit, **more)


IN_THE_MODEL = [
    _in_model("dropout left on", ("Cnn",), _exchange(nn.Dropout, lambda part: _DropAlways())),
    _in_model("batch norm left in training mode", ("Cnn",), _exchange(nn.BatchNorm2d, _NormByBatch)),
    _in_model("one weight x 1.001", _ALL, _on_weight(_scale_largest(1.001))),
    _in_model("one weight x 1.00001", _ALL, _on_weight(_scale_largest(1.00001)), levels=_WEIGHTS),
    _in_model("one row swapped", _ALL, _on_weight(_row_swapped)),
    _in_model("weights rounded to bf16", _ALL, _on_weight(lambda weight: weight.bfloat16().float())),
    _in_model("weights rounded to fp16", _ALL, _on_weight(lambda weight: weight.half().float())),
    _in_model("int8 weights", _ALL, _on_weight(lambda weight: _quantised(weight, 1.0))),
    _in_model("int8 weights with a wrong scale", _ALL, _on_weight(lambda weight: _quantised(weight, 1.02))),
    _in_model(
        "a weight transposed",
        ("Mlp", "Encoder"),
        _on_weight(lambda weight: weight.t().contiguous() if weight.shape[0] == weight.shape[1] else weight.flip(1)),
    ),
    _in_model(
        "a weight pruned",
        _ALL,
        _on_weight(lambda weight: torch.where(weight.abs() < weight.abs().median() / 4, 0.0, weight)),
    ),
    _in_model("a bias dropped", _ALL, _no_bias),
    _in_model("stale weights of an earlier step", _ALL, _stale, placed=False),
    _in_model("matrix products in TF32", _LINEAR, _around(_L, before=_tf32)),
    _in_model("a layer in half precision", _LINEAR, _around(_L, after=lambda x: x.half().float())),
    _in_model("a layer in bfloat16", _LINEAR, _around(_L, after=lambda x: x.bfloat16().float())),
    _in_model("epsilon x 100", ("Cnn", "Encoder"), _setting(_NORMS, "eps", lambda e: e * 100)),
    _in_model("epsilon / 10", ("Cnn", "Encoder"), _setting(_NORMS, "eps", lambda e: e / 10)),
    _in_model(
        "epsilon x 1.1",
        ("Cnn", "Encoder"),
        _setting(_NORMS, "eps", lambda e: e * 1.1),
        levels=("attributes", "weights"),
    ),
    _in_model("GELU by tanh", ("Encoder",), _setting((nn.GELU,), "approximate", lambda _: "tanh")),
    _in_model("softmax over the wrong axis", ("Encoder",), _setting((nn.Softmax,), "dim", lambda _: -2)),
    _in_model("attention without its scale", ("Encoder",), _become(zoo.Attention, zoo.UnscaledAttention)),
    _in_model("attention without its mask", ("Encoder",), _become(zoo.Attention, zoo.AttentionToTheFuture)),
    _in_model("a residual dropped", ("Encoder",), _become(zoo.Block, zoo.BlockWithoutResidual)),
    _in_model("sum for mean", ("Encoder",), _become(zoo.Encoder, zoo.SummingEncoder)),
    _in_model("layers in another order", ("Encoder",), _become(zoo.Encoder, zoo.SwappingEncoder), placed=False),
    _in_model(
        "inputs permuted", ("Pair",), _become(zoo.Pair, zoo.PairWithInputsSwapped), backends=_EVERY, placed=False
    ),
    _in_model(
        "outputs permuted", ("Pair",), _become(zoo.Pair, zoo.PairWithOutputsSwapped), backends=_EVERY, placed=False
    ),
    _in_model("the step before the last", ("Gru",), _become(zoo.Gru, zoo.GruOneStepEarly)),
    _in_model("a slice that begins too late", ("Gru",), _become(zoo.Gru, zoo.GruWithoutItsFirstStep)),
    _in_model("gates swapped", ("Gru",), _gates_swapped),
    _in_model("the neighbour's embedding", ("Tokens",), _become(zoo.Tokens, zoo.TokensOffByOne)),
    _in_model("the last token left out", ("Tokens",), _become(zoo.Tokens, zoo.TokensWithoutTheLast)),
    _in_model(
        "padding by reflection",
        ("Cnn",),
        _exchange(
            nn.Conv2d, lambda conv: _with(conv, padding_mode="replicate", _reversed_padding_repeated_twice=[1, 1, 1, 1])
        ),
    ),
    _in_model("average for maximum", ("Cnn",), _exchange(nn.MaxPool2d, lambda part: nn.AvgPool2d(2))),
    _in_model("a leaky ReLU", ("Mlp",), _exchange(nn.ReLU, lambda part: nn.LeakyReLU(0.01))),
    _in_model("another activation", ("Mlp",), _exchange(nn.Tanh, lambda part: nn.Softsign())),
    _in_model(
        "a clamp left in",
        _LINEAR,
        _around(_L, after=lambda x: x.clamp(-0.4, 0.4)),
        levels=(*NUMBERS, "values", "extremes"),
    ),
    _in_model("a constant added", _LINEAR, _around(_L, after=lambda x: x + 1e-4)),
    _in_model("outputs x 1.0001", _LINEAR, _around(_L, after=lambda x: x * 1.0001)),
    _in_model(
        "outputs x (1 + 1e-6)",
        _LINEAR,
        _around(_L, after=lambda x: x * (1 + 1e-6)),
        levels=("systematic", "error", "attributes", "weights"),
    ),
    _in_model(
        "NaN in one element of rare rows",
        ("Mlp", "Cnn", "Gru", "Encoder", "Tokens"),
        _nan_in_rare_rows,
        levels=("structure",),
    ),
    _in_model(
        "a stateful buffer frozen",
        ("Counting",),
        lambda module: None,
        levels=("calls",),
        backends=("onnx",),
        placed=False,
    ),
]
BY_NAME = {kind.name: kind for kind in IN_THE_MODEL}
