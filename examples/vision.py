"""A vision model that takes images of many sizes: which dimensions move, and how far.

    python examples/vision.py

An export that would freeze a side is an error with its name; what is proved is proved at many sizes.
"""

import torch
from torch import nn

import torchstone


class Segments(nn.Module):
    """A mask as large as the image, and one score for all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()
        )
        self.mask, self.score = nn.Conv2d(16, 1, 1), nn.Linear(16, 1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """``image``: ``(batch, 3, height, width)``."""
        features = self.down(image)
        mask = nn.functional.interpolate(self.mask(features), image.shape[2:], mode="bilinear")
        return {"mask": torch.sigmoid(mask), "score": self.score(features.mean((2, 3)))}


torch.manual_seed(0)
result = torchstone.export(
    Segments(),
    torch.rand(2, 3, 32, 48),
    name="vision",
    dynamic={"image": {0: "batch", 2: "height", 3: "width"}},
    ranges={"batch": (1, 8), "height": (16, 96), "width": (16, 96)},
    backends=("eager", "onnx"),
)
print(result)
for output in result.signature.outputs:
    print(output.name, output.shape)
