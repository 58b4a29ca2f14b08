"""How many children work at once: as many as there are cores, and on a GPU no more than its memory holds."""

from __future__ import annotations

from export.device import Device
from export.environment import cores_count
from export.gpus.nvml import Board

_CONTEXT_BYTES = 3 << 29
"""What CUDA, cuDNN and cuBLAS hold of a GPU in a process that computes next to nothing, with a margin: 1.5 GiB."""
_COPIES_COUNT = 6
"""So often a child may hold the weights: as they are, a program's, a compiler's while it folds; and what flows."""


def at_once(where: Device, weights_bytes: int) -> int:
    """Children side by side; all cores where the driver does not tell what is free. Each brings the weights along."""
    board = where.board()
    free_bytes = board.free_bytes() if isinstance(board, Board) else None
    if free_bytes is None:
        return cores_count()
    return max(1, min(cores_count(), free_bytes // (_CONTEXT_BYTES + _COPIES_COUNT * weights_bytes)))
