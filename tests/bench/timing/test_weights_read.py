"""The memory floor of a call counts what it must read: of a table the rows that are looked up, once each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.timing.roofline.weights_read import WeightsRead

TABLE_ROWS, WIDTH = 1000, 16
FLOAT32_BYTES = 4


class Looks(nn.Module):
    """A table by numbers, another by its first rows, a matrix twice, and what is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(TABLE_ROWS, WIDTH)
        self.places = nn.Parameter(torch.zeros(TABLE_ROWS, WIDTH))
        self.mixed = nn.Linear(WIDTH, WIDTH, bias=False)
        self.unused = nn.Parameter(torch.zeros(TABLE_ROWS))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.mixed(self.mixed(self.table(ids) + self.places[: ids.shape[1]]))
        return y


class Tied(nn.Module):
    """A table that is also the matrix of the last layer, and is then read whole."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(TABLE_ROWS, WIDTH)
        self.last = nn.Linear(WIDTH, TABLE_ROWS, bias=False)
        self.last.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.table(ids))
        return y


@pytest.mark.parametrize(
    ("ids", "rows_count"), [([[3, 3, 3, 3]], 1), ([[1, 2, 3, 4], [4, 3, 2, 5]], 5)], ids=["one row", "five rows"]
)
def test_rows_are_counted_once_and_matrices_whole(ids: list[list[int]], rows_count: int) -> None:
    tensor = torch.tensor(ids)
    program = WeightsRead(torch.export.export(Looks(), (tensor,)))
    program.run(tensor)
    assert program.bytes == FLOAT32_BYTES * WIDTH * (rows_count + len(ids[0]) + WIDTH)


def test_a_table_that_is_also_a_matrix_is_counted_whole_and_once() -> None:
    ids = torch.tensor([[1, 2]])
    program = WeightsRead(torch.export.export(Tied(), (ids,)))
    program.run(ids)
    assert program.bytes == FLOAT32_BYTES * WIDTH * TABLE_ROWS
