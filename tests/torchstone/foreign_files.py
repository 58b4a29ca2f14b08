"""The files of the test of foreign artifacts, as a user's own scripts write them: ``python -m ... FOLDER``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from torch import nn


class Net(nn.Module):
    """Two inputs of two kinds, two outputs with names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(50, 64)
        self.hidden, self.head = nn.Linear(64, 32), nn.Linear(32, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        pooled = (self.embedding(ids) * mask.unsqueeze(-1)).sum(1)
        hidden = torch.tanh(self.hidden(pooled))
        return {"scores": self.head(hidden), "hidden": hidden}


def examples() -> tuple[torch.Tensor, torch.Tensor]:
    """Calls that reach both ends of the vocabulary."""
    ids = torch.randint(0, 50, (8, 6), generator=torch.Generator().manual_seed(1))
    ids[0, 0], ids[0, 1] = 0, 49
    return ids, torch.ones(8, 6)


def write(folder: Path) -> None:
    """Right files, a wrong one, and files that cannot be taken."""
    net, (ids, mask) = Net().eval(), examples()
    batch = {0: torch.export.Dim("batch", max=1024)}
    moving = {"ids": batch, "mask": batch}

    def dynamo(module: nn.Module, name: str, outputs: list[str]) -> None:
        """Weights lie beside it."""
        torch.onnx.export(module, (ids, mask), folder / name, dynamo=True, dynamic_shapes=moving, output_names=outputs)

    dynamo(net, "dynamo.onnx", ["scores", "hidden"])
    dynamo(net, "swapped.onnx", ["hidden", "scores"])
    torch.onnx.export(
        net, (ids, mask), folder / "legacy.onnx", dynamo=False,
        input_names=["a", "b"], dynamic_axes={"a": {0: "n"}, "b": {0: "n"}},
    )  # fmt: skip
    torch.onnx.export(net, (ids, mask), folder / "fixed.onnx", dynamo=False, input_names=["ids", "mask"])
    program = torch.export.export(net, (), {"mask": mask, "ids": ids}, dynamic_shapes={"mask": batch, "ids": batch})
    torch.export.save(program, folder / "keywords.pt2")
    torch.jit.trace(net, (ids, mask), strict=False).save(str(folder / "trace.pt"))
    torch.save(net.state_dict(), folder / "weights.pt")
    with torch.no_grad():
        net.head.weight[0, 0] *= 1.0001
    torch.jit.script(net).save(str(folder / "wrong.pt"))
    dynamo(net, "wrong.onnx", ["scores", "hidden"])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write(Path(sys.argv[1]))
