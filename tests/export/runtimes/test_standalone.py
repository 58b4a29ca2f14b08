"""Programs that Inductor compiles once for every size, and those that it must not."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.export import Dim

from export.artifact import open_artifact
from export.errors import UserError
from export.exporters import standalone
from export.exporters.inductor import prepare


class TakesForGranted(CustomGraphPass):
    """A pass of a compiler that asks for the number of rows, and goes by the answers."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        rows = next(node.meta["val"].shape[0] for node in graph.nodes if node.op == "placeholder")
        assert rows > 3
        assert rows < 65  # as declared

    def uuid(self) -> bytes:
        return b"rows"


def exported(module: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module, (torch.ones(4, 2),), dynamic_shapes=({0: Dim("batch", min=1, max=64)},))


def test_a_plain_model_stands_alone_and_was_compiled_for_no_size_in_particular(built: Path) -> None:
    facts = open_artifact(built / "artifacts" / "compile").facts
    assert facts["road"] == "standalone"
    assert "compiled_at" not in facts


def test_a_size_that_the_compiler_takes_for_granted_is_refused(tmp_path: Path) -> None:
    """The twin stands above: without that pass a program is compiled for every size."""
    prepare(tmp_path / "cache")
    with (
        config.patch("post_grad_custom_post_pass", TakesForGranted()),
        pytest.raises(UserError, match=r"standalone compiler takes for granted that s\d+ > 3$"),
    ):
        standalone.build(exported(nn.GELU()), tmp_path / "cache", tmp_path / "kept")
