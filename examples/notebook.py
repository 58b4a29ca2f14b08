"""A result in a notebook: these cells run in VS Code, PyCharm and Spyder, and in Jupyter by jupytext."""

# %% [markdown]
# A class that stands in a cell is fine: it reaches the processes that build it, with its source.

# %%
import torch
from torch import nn

import torchstone


class Gate(nn.Module):
    """Two results by name: artifacts answer by the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.values, self.gate = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Gated values, and how far each gate is open."""
        opened = torch.sigmoid(self.gate(features))
        return {"gated": self.values(features) * opened, "opened": opened}


# %% [markdown]
# `export` builds and proves, as `check` does, and measures nothing: that is quick enough to try things.

# %%
torch.manual_seed(0)
model, features = Gate().eval(), torch.randn(16, 8)
result = torchstone.export(model, features, name="notebook", backends=("eager", "onnx"), quiet=True)
print(result)

# %% [markdown]
# A row knows its state, its file and why it may not ship; `load` gives an artifact that is called with arrays by name.

# %%
for row in result:
    print(f"{row.name:8} {row.status:6} {row.path} {'; '.join(row.reasons)}")
answers = result["onnx"].load()({"features": features.numpy()})
with torch.inference_mode():
    print("largest difference:", abs(answers["gated"] - model(features)["gated"].numpy()).max())
