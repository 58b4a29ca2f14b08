"""Modules in parts: each process keeps its part of every parameter, and has a unit whole only while that computes.

This is PyTorch's ``fully_shard`` (FSDP2). A unit is a child of a ``ModuleList``, where large models have their layers;
what is left of the module is one more. Importing it takes as long as importing torch, so only who shards does.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import nn

from export.device import Device
from export.errors import UserError
from pipeline.training.distributed import World

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def shard(module: nn.Module, where: Device, world: World) -> None:
    """Leave to each process its part of every parameter, in place, before an optimizer takes hold of them."""
    if world.size == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    refuse_shared(module)
    mesh = init_device_mesh(where.kind, (world.size,))
    for unit in _units(module):
        fully_shard(unit, mesh=mesh)


def _units(module: nn.Module) -> list[nn.Module]:
    """What is gathered at once, inner modules before those around them."""
    parents = reversed(list(module.modules()))
    children = (child for parent in parents if isinstance(parent, nn.ModuleList) for child in reversed(parent))
    lists = (nn.ModuleList, nn.ModuleDict)
    return [*dict.fromkeys(each for each in children if not isinstance(each, lists) and [*each.parameters()]), module]


def refuse_shared(module: nn.Module) -> None:
    """A weight of two units would be gathered twice.

    Raises:
        UserError: there is one.
    """
    owner = {inner: unit for unit in reversed(_units(module)) for inner in unit.modules()}  # the innermost comes last
    first: dict[nn.Parameter, tuple[str, nn.Module]] = {}
    for place, inner in module.named_modules():
        for key, weight in inner.named_parameters(place, recurse=False):
            name, unit = first.setdefault(weight, (key, owner[inner]))
            if unit is not owner[inner]:
                raise UserError(
                    f"the weight {name} is also {key}, of another layer: weights that a layer of a ModuleList shares "
                    "cannot be sharded; train without --train.sharded"
                )


def is_unit(module: nn.Module) -> TypeGuard[FSDPModule]:
    """Whether it is gathered as one."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # what nobody imported made no unit
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def is_part(tensor: torch.Tensor) -> TypeGuard[DTensor]:
    """Whether it is this process's part of another."""
    parts = sys.modules.get("torch.distributed.tensor")
    return parts is not None and isinstance(tensor, parts.DTensor)


def unshard(module: nn.Module) -> None:
    """Every parameter whole, in every process, which must all call this; a module that is not sharded is so already."""
    for each in module.modules():
        if is_unit(each):
            each.unshard()


def reshard(module: nn.Module) -> None:
    """Keep this process's part alone, of units too that a forward pass without a backward one left whole."""
    for each in module.modules():
        if is_unit(each):
            each.reshard()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor whose part this is; every process must call this."""
    return tensor.full_tensor() if is_part(tensor) else tensor


def gathered(tensors: Mapping[str, torch.Tensor], world: World) -> dict[str, torch.Tensor]:
    """Whole tensors on the host of the first process, none in the others; on a device they are whole one by one."""
    kept = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if world.writes:
            kept[name] = full.cpu()
    return kept


def placed(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a whole tensor, where ``like`` is in parts; both have the same shape."""
    if is_part(tensor) or not is_part(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
