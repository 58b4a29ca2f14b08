"""The CPU under another name, with the board that NVML has for its number."""

from __future__ import annotations

from typing import ClassVar

from export.device import Device
from export.gpus.nvml import Board, board


class Rig(Device):
    """What a test does with a GPU's figures where there is none."""

    kind: ClassVar[str] = "rig"

    def board(self) -> Board | str | None:
        return board(self.index)
