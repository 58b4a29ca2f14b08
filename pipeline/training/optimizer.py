"""The optimizer that a recipe names, its parameter groups, and its learning rate at every step.

The learning rate is a function of the step alone: a training that goes on has no schedule to restore.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from export.device import HOST, Device
from export.errors import UserError
from pipeline.training.spec import TrainSpec

_FORMS: dict[str, dict[str, bool]] = {
    "default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}, "loop": {"foreach": False},
}  # fmt: skip


def make_optimizer(spec: TrainSpec, module: nn.Module, where: Device = HOST) -> torch.optim.Optimizer:
    """The optimizer of ``torch.optim`` that the settings name, over the module's parameters.

    ``--train.fast`` on a device that records asks for a form that can be recorded, where there is one.

    Raises:
        UserError: there is none of that name, or it has no such argument; names those that there are.
    """
    kind = _kind(spec.optimizer)
    arguments: dict[str, Any] = {"lr": spec.lr, **_FORMS[spec.optimizer_form], **spec.optimizer_settings}
    arguments |= {name: value for name in ("momentum", "weight_decay") if (value := getattr(spec, name))}
    known = {*inspect.signature(kind).parameters} - {"params"}
    if spec.fast and where.asynchronous:
        arguments |= {"capturable": True} if "capturable" in known else {"fused": True}
    if unknown := sorted(arguments.keys() - known):
        raise UserError(
            f"{kind.__name__} has no argument {unknown[0]!r}, which --train.* sets to {arguments[unknown[0]]}: "
            f"it has {', '.join(sorted(known))}"
        )
    try:
        optimizer: torch.optim.Optimizer = kind(_groups(spec, module), **arguments)
        return optimizer
    except (TypeError, ValueError, RuntimeError) as error:  # bounds, tensors that it does not take
        raise UserError(f"{kind.__name__} cannot be made of --train.*: {error}") from error


def lr_ratio(spec: TrainSpec, step: int, epoch: int, steps_count: int | None) -> float:
    """The learning rate of a step (from 0) in parts of ``lr``; ``steps_count``: of the whole training, if known.

    Raises:
        UserError: the schedule ends with the training, and nobody knows where that is.
    """
    if steps_count is None and spec.schedule in ("cosine", "linear"):
        raise UserError(
            f"the schedule {spec.schedule} must know how many steps an epoch has, which this data does not say: "
            "set --train.steps-per-epoch, or take --train.schedule step"
        )
    if step < spec.warmup_steps:
        return (step + 1) / spec.warmup_steps
    if spec.schedule == "constant":
        return 1.0
    if spec.schedule == "step" or steps_count is None:
        return float(spec.step_ratio ** (epoch // spec.step_epochs))
    done = min(1.0, (step - spec.warmup_steps) / max(1, steps_count - spec.warmup_steps))
    left = 1 - done if spec.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return spec.lr_end_ratio + (1 - spec.lr_end_ratio) * left


def _kind(name: str) -> type[Any]:
    kinds = {kind.__name__.lower(): kind for kind in _optimizers()}
    if (kind := kinds.get(name.lower())) is None:
        nearest = difflib.get_close_matches(name.lower(), kinds, n=1)
        hint = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise UserError(f"torch.optim has no optimizer {name!r}{hint}: it has {', '.join(sorted(kinds))}")
    return kind


def _optimizers() -> Iterable[type[torch.optim.Optimizer]]:
    """Those that ``torch.optim`` has, but LBFGS, whose step asks for the loss again and again."""
    base = torch.optim.Optimizer
    kinds = (kind for kind in vars(torch.optim).values() if isinstance(kind, type) and issubclass(kind, base))
    return (kind for kind in kinds if kind not in (base, torch.optim.LBFGS))


def _groups(spec: TrainSpec, module: nn.Module) -> Any:
    """The parameters, in two groups where some of them do not decay."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise UserError("the model has no parameter that requires a gradient: there is nothing to train")
    if spec.decay == "all":
        return parameters
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    return [group for group in ({"params": matrices}, {"params": others, "weight_decay": 0.0}) if group["params"]]
