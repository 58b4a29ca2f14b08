"""Which kind of batches training rows make, by how the recipe gives them."""

from __future__ import annotations

from torch.utils.data import DataLoader, IterableDataset

from pipeline.data import Rows, Split
from pipeline.training.batches.batch import Batches, Reading
from pipeline.training.batches.numbered import Numbered
from pipeline.training.batches.resident import Resident
from pipeline.training.batches.streamed import Streamed


def batches(rows: Rows, reading: Reading) -> Batches:
    """The batches of training rows, however those are given.

    Raises:
        UserError: there are no rows, or they are not what the signature says.
    """
    if isinstance(rows, Split):
        return Resident(rows, reading)
    return Streamed(rows, reading) if isinstance(rows, DataLoader | IterableDataset) else Numbered(rows, reading)
