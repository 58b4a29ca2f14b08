"""The batches of an epoch are a function of seed, epoch and step, however the rows are given and whoever reads them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from export.device import HOST
from export.signature import TensorSpec
from pipeline.data import Data, Rows, as_split, in_memory
from pipeline.recipe import TrainSpec
from pipeline.training.batches.batch import Batch, Batches, Reading
from pipeline.training.batches.kinds import batches
from pipeline.training.distributed import ALONE, World
from tests.pipeline.training.small import Augmented, Stream, data, rows

FORMS = ("memory", "numbered", "streamed", "loader")


def reading(world: World = ALONE, **settings: Any) -> Reading:
    spec = TrainSpec(**{"batch_rows": 8} | settings)
    return Reading(inputs=(TensorSpec("x", "float32", ("batch", 6)),), spec=spec, seed=5, where=HOST, world=world)


def made(form: str, **settings: Any) -> Batches:
    return batches(data(form).train, reading(**settings))


def values(epoch: Iterator[Batch]) -> list[torch.Tensor]:
    return [batch.split.inputs["x"] for batch in epoch]


def alike(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_an_epoch_begun_in_its_midst_is_the_rest_of_the_whole(form: str) -> None:
    whole = values(made(form).epoch(1, 0))
    assert len(whole) == 8
    torch.manual_seed(99)  # whatever the model drew
    np.random.seed(99)
    random.seed(99)
    assert alike(values(made(form).epoch(1, 5)), whole[5:])
    assert not alike(values(made(form).epoch(2, 0)), whole) or form == "memory"


@pytest.mark.parametrize("form", FORMS)
def test_reading_draws_nothing_from_the_models_generators(form: str) -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    expected = (torch.rand(3), np.random.rand(), random.random())
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    values(made(form).epoch(0, 3))
    drawn = (torch.rand(3), np.random.rand(), random.random())
    assert torch.equal(drawn[0], expected[0])
    assert drawn[1:] == expected[1:]


def test_workers_read_the_same_rows_with_the_same_draws() -> None:
    alone, helped = made("numbered"), made("numbered", workers_count=2)
    for epoch in range(2):
        assert alike(values(alone.epoch(epoch, 0)), values(helped.epoch(epoch, 0)))
    assert alike(values(helped.epoch(0, 6)), values(alone.epoch(0, 0))[6:])


def test_rows_of_every_form_are_each_taken_once_an_epoch() -> None:
    numbers = [batch.numbers for batch in made("numbered").epoch(0, 0)]
    assert sorted(torch.cat([each for each in numbers if each is not None]).tolist()) == list(range(60))
    for form in FORMS:
        assert sum(batch.rows_count for batch in made(form).epoch(0, 0)) == 60


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [2, 3, 7])
def test_processes_together_take_each_row_of_a_step_once(form: str, size: int) -> None:
    whole = list(batches(data(form).train, reading()).epoch(0, 0))
    parts = [list(batches(data(form).train, reading(World(rank, size))).epoch(0, 0)) for rank in range(size)]
    for step, batch in enumerate(whole):
        own = [part[step] for part in parts]
        assert sum(each.share for each in own) == pytest.approx(1)
        rows_taken = torch.cat([each.split.inputs["x"] for each in own if each.share])
        assert sorted(map(tuple, rows_taken.tolist())) == sorted(map(tuple, batch.split.inputs["x"].tolist()))
        assert all(each.split.rows_count > 0 for each in own), "batch norm takes no empty batch"


def test_how_many_steps_an_epoch_has_is_known_where_the_data_says() -> None:
    assert [made(form).steps_count for form in FORMS] == [8, 8, None, 8]
    assert [made(form, steps_per_epoch=3).steps_count for form in FORMS] == [3, 3, 3, 3]
    assert made("memory", batch_rows=None).steps_count == 1


def test_a_loader_with_a_generator_of_its_own_is_set_anew_each_epoch() -> None:
    loader = DataLoader(Augmented(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(1))
    plan = batches(loader, reading())
    first, second = values(plan.epoch(0, 0)), values(plan.epoch(1, 0))
    assert alike(values(plan.epoch(0, 0)), first)
    assert not alike(first, second)


@pytest.mark.parametrize(
    "batch",
    [
        (torch.ones(2, 3), torch.zeros(2)),
        ((torch.ones(2, 3),), torch.zeros(2)),
        ({"x": torch.ones(2, 3)}, torch.zeros(2)),
        {"x": torch.ones(2, 3), "labels": torch.zeros(2)},
    ],
)
def test_a_batch_may_be_a_pair_or_a_mapping(batch: Any) -> None:
    split = as_split(batch, ["x"])
    assert torch.equal(split.inputs["x"], torch.ones(2, 3))
    assert torch.equal(split.targets, torch.zeros(2))


@pytest.mark.parametrize(
    ("form", "count"), [(rows(), 60), (Augmented(), 20), (Stream(), 20), (DataLoader(Augmented(), batch_size=7), 20)]
)
def test_what_is_evaluated_is_brought_into_memory_as_far_as_it_is_needed(form: Rows, count: int) -> None:
    assert in_memory(form, ["x"], 20).rows_count == count
    assert in_memory(form, ["x"], None).rows_count == 60


def test_a_data_set_of_tensors_is_held_out_as_it_is() -> None:
    split = rows()
    test: Dataset[Any] = TensorDataset(split.inputs["x"], split.targets)
    name, held_out = Data(train=split, test=test).held_out(["x"], 10)
    assert name == "test"
    assert torch.equal(held_out.inputs["x"], split.inputs["x"][:10])
    assert Data(train=split).held_out(["x"], 10)[1].rows_count == 60
    assert list(islice(Data(train=test, test=test).splits, 5)) == []
