"""A branch and a loop that depend on the data, by torch.cond and while_loop: loud and quiet signals.

A plain ``if`` or ``while`` on a tensor cannot be traced; these two can, and both sides of the branch and every number
of steps are in the artifact. TorchScript knows neither.
"""

from __future__ import annotations

import torch
from torch import nn
from torch._higher_order_ops.while_loop import while_loop

from export.signature import Signature, SizeRange, TensorSpec
from pipeline.recipe import Recipe

_CHANNELS, _MOST_STEPS = 16, 12


class Branches(nn.Module):
    """A signal ``(1, time)`` to scores ``(1, 4)``, and how many steps its state took to settle.

    The signal is one whole: which side it takes, and for how long, is decided for all of its samples together.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv1d(1, _CHANNELS, 5, padding=2)
        self.loud = nn.Sequential(nn.Linear(_CHANNELS, _CHANNELS), nn.Tanh())
        self.quiet = nn.Sequential(nn.Linear(_CHANNELS, _CHANNELS), nn.ReLU(), nn.Linear(_CHANNELS, _CHANNELS))
        self.settle = nn.Linear(_CHANNELS, _CHANNELS)
        self.head = nn.Linear(_CHANNELS, 4)

    def forward(self, signal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores, and the number of steps."""
        state = self.features(signal.unsqueeze(1)).abs().mean(2)
        state = torch.cond(signal.square().mean() > 1.0, self._loud, self._quiet, (state,))
        steps = torch.zeros((), dtype=torch.int64, device=signal.device)
        steps, state = while_loop(self._is_unsettled, self._step, (steps, state))
        return self.head(state), steps

    def _loud(self, state: torch.Tensor) -> torch.Tensor:
        return torch.mul(self.loud(state), 2.0)

    def _quiet(self, state: torch.Tensor) -> torch.Tensor:
        return torch.add(self.quiet(state), 1.0)

    def _is_unsettled(self, steps: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return (steps < _MOST_STEPS) & (state.square().mean() > 0.2)

    def _step(self, steps: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return steps + 1, 0.9 * state + 0.1 * torch.tanh(self.settle(state))


def recipe() -> Recipe:
    """Random weights, no training: what counts is that no artifact holds one side alone."""
    return Recipe(
        name="branches",
        model=Branches,
        signature=Signature(
            inputs=(TensorSpec("signal", "float32", (1, "time")),),
            output_names=("scores", "steps"),
            ranges={"time": SizeRange(min=8, max=4096, example=48)},
        ),
        required=("compile", "onnx"),
    )
