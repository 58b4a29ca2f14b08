"""A step traced to one function of tensors, which Inductor compiles: a call goes through no module and no autograd.

Tracing runs the step once on copies and writes down its operators, those of the backward pass and of the optimizer
too. What the model draws it draws from torch's generator, as a plain step does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from export.device import HOST
from export.environment import missing_compiler
from export.errors import UserError
from export.explanations import in_users_words
from export.exporters.inductor import settings
from pipeline.data import Split
from pipeline.training.determinism import RandomState
from pipeline.training.distributed import ALONE
from pipeline.training.state.training import Training
from pipeline.training.steps.step import Step
from pipeline.training.steps.whole import Result, refuse_draws_on_host, refuse_replaced_buffers, slots, whole

if TYPE_CHECKING:
    from pipeline.recipe import Recipe
    from pipeline.training.spec import TrainSpec

_AS_PLAIN = {"fallback_random": True, "cpp.threads": 1}
"""Random numbers are those of a plain step; fused loops have one thread, or an index out of range in one of them, such
as a label that there is not, would end the process without a word (matrix products and convolutions have all)."""
_OPTIMIZER = {"foreach": False, "fused": None, "capturable": False, "differentiable": True}
"""The form of torch's optimizers that decides nothing by a tensor's value."""


class Traced:
    """Traces steps of one training."""

    def __init__(self, recipe: Recipe, spec: TrainSpec, training: Training) -> None:
        """Nothing is traced yet.

        Raises:
            UserError: the optimizer is not one of torch's that can be traced; there is no compiler.
        """
        optimizer = training.optimizer
        if not type(optimizer).__module__.startswith("torch.optim.") or "differentiable" not in optimizer.defaults:
            raise UserError(
                f"--train.fast takes optimizers of torch.optim that have a differentiable form, such as sgd and adamw; "
                f"{type(optimizer).__name__} is none: leave --train.fast out"
            )
        if reason := missing_compiler("C++"):
            raise UserError(f"--train.fast compiles the step: {reason}")
        self._recipe, self._spec, self._training = recipe, spec, training
        self._named: dict[str, torch.Tensor] = {}
        """Parameters and buffers: of the module as it is after a plain step, in which forward may replace some."""
        self._lrs = [torch.tensor(group["lr"], dtype=torch.float64) for group in self._groups if spec.moves_lr]

    def call(self, split: Split) -> Callable[[Split], Result]:
        """Takes steps on batches of the shapes of ``split``; nothing is trained yet.

        Raises:
            UserError: the step cannot be traced, or compiled.
        """
        names, module = list(split.inputs), self._training.module
        self._named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        kept = [each for _, _, each in slots(self._training.optimizer)]
        fixed = [*(each.detach() for each in self._named.values()), *kept, *self._lrs]
        tensors = [*fixed, *split.inputs.values(), split.targets]
        function = compiled(graph_of(self._step(names), tensors), tensors)

        def call(split: Split) -> Result:
            for tensor, group in zip(self._lrs, self._groups, strict=False):
                tensor.fill_(group["lr"])
            with torch.no_grad():
                loss, norm = function(*fixed, *[split.inputs[name] for name in names], split.targets)
            return loss, norm

        return call

    @property
    def _groups(self) -> list[dict[str, Any]]:
        """The optimizer's, which are others once it took up a saved state."""
        return self._training.optimizer.param_groups

    def _step(self, names: Sequence[str]) -> Callable[..., Result]:
        """A step as a function of parameters and buffers, the optimizer's slots, learning rates that move, a batch."""
        owners = [(parameter, name) for parameter, name, _ in slots(self._training.optimizer)]

        def step(*tensors: torch.Tensor) -> Result:
            given = iter(tensors)
            named = dict(zip(self._named, given, strict=False))
            kept, lrs = list(islice(given, len(owners))), list(islice(given, len(self._lrs)))
            split = Split(inputs=dict(zip(names, given, strict=False)), targets=next(given))
            return self._taken(named, dict(zip(owners, kept, strict=True)), lrs, split)

        return step

    def _taken(
        self,
        named: dict[str, torch.Tensor],
        kept: dict[tuple[torch.Tensor, str], torch.Tensor],
        lrs: list[torch.Tensor],
        split: Split,
    ) -> Result:
        module, own = self._training.module, {id(each): name for name, each in self._named.items()}
        leaves = {name: each.detach() for name, each in named.items()}
        for name, parameter in module.named_parameters():
            leaves[name].requires_grad_(parameter.requires_grad)
        optimizer = self._counterpart(lambda parameter: leaves[own[id(parameter)]], lrs)
        wide = {}
        for (owner, name), slot in kept.items():
            # Counts of steps: what is raised to their power is near 1, and the rest to 1 would be lost in float32.
            wide[slot] = slot.double() if slot.ndim == 0 and slot.is_floating_point() else slot
            optimizer.state[leaves[own[id(owner)]]][name] = wide[slot]

        def advance() -> None:
            inspect.unwrap(type(optimizer).step)(optimizer)
            for slot, each in wide.items():
                if each is not slot:
                    slot.copy_(each)

        def call(*arguments: Any, **keywords: Any) -> Any:
            return functional_call(module, leaves, arguments, keywords)

        step = Step(self._recipe, self._spec, Training(module=module, optimizer=optimizer), HOST, ALONE, call)
        trained = [named[name] for name, parameter in module.named_parameters() if parameter.requires_grad]
        given = dict(leaves)
        result = whole(step, split, HOST, advance, [*trained, *kept.values()])
        refuse_replaced_buffers([name for name, each in leaves.items() if each is not given[name]])
        _check_slots(optimizer, len(kept))
        return result

    def _counterpart(
        self, leaf: Callable[[torch.Tensor], torch.Tensor], lrs: list[torch.Tensor]
    ) -> torch.optim.Optimizer:
        """The training's optimizer over other tensors."""
        groups = [{**group, **_OPTIMIZER, "params": [leaf(each) for each in group["params"]]} for group in self._groups]
        for group, lr in zip(groups, lrs, strict=False):
            group["lr"] = lr.detach().requires_grad_()  # or sgd asks for its value
        kind: Any = type(self._training.optimizer)
        optimizer: torch.optim.Optimizer = kind(groups)
        return optimizer


def _check_slots(optimizer: torch.optim.Optimizer, count: int) -> None:
    """What an optimizer begins to keep in a step that is written down, it would begin with in every one.

    Raises:
        UserError: it keeps more than ``count`` tensors.
    """
    if len([*slots(optimizer)]) > count:
        raise UserError(
            "--train.fast: a parameter had no gradient in the first step, and has one in a step of another shape: "
            "leave --train.fast out"
        )


def graph_of(step: Callable[..., Result], tensors: Sequence[torch.Tensor]) -> torch.fx.GraphModule:
    """The operators of a step; the tensors stay as they are.

    Raises:
        UserError: the step looks at a value, or draws from another generator than torch's.
    """
    before = RandomState.now()
    try:
        with torch.no_grad():
            graph = make_fx(step)(*[each.clone() for each in tensors])
    except RuntimeError as error:
        if "tracing tensor" not in str(error):
            raise
        raise UserError(
            "--train.fast makes one function of a step, and this one asks for a tensor's value: "
            f"{str(error).partition('.')[0]}. Compute with tensors alone, or leave --train.fast out"
        ) from error
    after = RandomState.now()
    before.restore()
    refuse_draws_on_host(before, after)
    return graph


def compiled(graph: torch.fx.GraphModule, tensors: Sequence[torch.Tensor]) -> Callable[..., Any]:
    """A step's operators as Inductor's code for tensors of these very shapes and strides.

    Raises:
        UserError: Inductor cannot compile them.
    """
    patches = settings() | _AS_PLAIN
    try:
        with torch.no_grad():
            function: Callable[..., Any] = torch._inductor.standalone_compile(
                graph, list(tensors), dynamic_shapes="from_example_inputs", options={"config_patches": patches}
            )
    except RuntimeError as error:
        raise UserError(
            f"--train.fast: Inductor cannot compile the step: {in_users_words(error)}. Leave --train.fast out"
        ) from error
    return function
