"""A program on a GPU that is not there: tensors without values know their device, and none may meet one of the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._guards import detect_fake_mode
from torch.utils import _pytree as pytree

from export.completion import complete
from export.device import device
from export.program import capture, on_device
from tests.models import SIGNATURES, make
from tests.torches import CUDA_BUILD_WITHOUT_DRIVER


def without_values(model: str) -> tuple[torch.export.ExportedProgram, Any, list[Any]]:
    """A model's program whose tensors have no values, the mode that they are of, and inputs on a GPU."""
    signature = complete(make(model), SIGNATURES[model], seed=0)
    exported = capture(make(model), signature, seed=0).exported
    seen = [node.meta.get("val") for node in exported.graph.nodes]
    mode: Any = detect_fake_mode([value for value in seen if isinstance(value, torch.Tensor)])
    example = signature.example(signature.example_sizes(), seed=0)

    def emptied(name: str, tensor: torch.Tensor) -> torch.Tensor:
        fake: torch.Tensor = mode.from_tensor(tensor.detach())
        is_parameter = name in exported.graph_signature.parameters
        return torch.nn.Parameter(fake, requires_grad=False) if is_parameter else fake

    exported._state_dict = {name: emptied(name, tensor) for name, tensor in exported.state_dict.items()}
    exported._constants = pytree.tree_map_only(torch.Tensor, mode.from_tensor, exported.constants)
    exported.example_inputs = pytree.tree_map_only(torch.Tensor, mode.from_tensor, exported.example_inputs)
    with mode:
        inputs = [
            torch.empty(array.shape, dtype=torch.from_numpy(array).dtype, device="cuda") for array in example.values()
        ]
    return exported, mode, inputs


@pytest.mark.parametrize(
    "model", ["ConvNorm", "Masked", "Nested", pytest.param("Recurrent", marks=CUDA_BUILD_WITHOUT_DRIVER)]
)
def test_a_program_computes_on_the_gpu_that_it_was_moved_to(model: str) -> None:
    exported, mode, inputs = without_values(model)
    with mode, torch.no_grad():
        outputs = on_device(exported, device("cuda")).module()(*inputs)
    assert {str(output.device) for output in outputs} == {"cuda:0"}


def test_one_that_was_not_moved_is_found_out() -> None:
    exported, mode, inputs = without_values("ConvNorm")
    with mode, torch.no_grad(), pytest.raises(RuntimeError, match="device"):
        exported.module()(*inputs)
