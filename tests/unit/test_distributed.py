"""Devices, and what torch makes new numbers as."""

from time import sleep

import pytest
import torch
from processes import run_world

from mixbct.distributed import World, default_dtype, device_name, open_device
from mixbct.errors import ModelError


def test_a_device_has_a_name_that_says_what_computed() -> None:
    assert device_name("cpu")


@pytest.mark.parametrize("name", ["nonsense", "meta", "privateuseone", "cuda:99"])
def test_a_device_that_is_not_there_or_gives_nothing_back_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=f"'{name}' cannot be used here"):
        open_device(name)


def test_new_numbers_are_of_a_type_for_a_while() -> None:
    with default_dtype(torch.float64):
        assert torch.zeros(1).dtype == torch.float64
    assert torch.zeros(1).dtype == torch.float32


def test_an_error_ends_that_while_too() -> None:
    with pytest.raises(ModelError), default_dtype(torch.float64):
        open_device("nonsense")
    assert torch.zeros(1).dtype == torch.float32


LABELS = [0, 1, 2**20 - 1, 2**20, 2**24 + 1, 2**39 + 2**20 + 5, -1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_labels_go_with_rows_and_none_is_rounded(size: int, dtype: torch.dtype) -> None:
    rows = torch.linspace(-1, 1, 3 * len(LABELS)).view(-1, 3).to(dtype)

    def gathered(world: World) -> tuple[list[list[float]], list[int], list[list[float]]]:
        counts = world.counts(len(rows))
        own = world.span(counts)
        values = rows[own].clone().requires_grad_()
        every, labels = world.gather_labelled(values, torch.tensor(LABELS)[own], counts)
        assert (labels.dtype, every.dtype) == (torch.int64, dtype)
        (every * (1 + torch.arange(len(rows)))[:, None] / size).sum().backward()
        return every.tolist(), labels.tolist(), values.grad.tolist()

    found = [gathered(World())] if size == 1 else run_world(size, gathered)
    assert all(each[:2] == (rows.tolist(), LABELS) for each in found)
    weights = [row[0] for each in found for row in each[2]]
    assert weights == pytest.approx(list(range(1, len(rows) + 1)))


def test_a_sum_that_was_begun_arrives_when_it_is_asked_for() -> None:
    def summed(world: World) -> tuple[float, float]:
        if world.rank:
            sleep(0.3)  # the first has begun long before
        first = world.begin_sum(torch.tensor(1.0 + world.rank))
        return float(first()), float(world.reduce(torch.tensor(10.0)))

    assert run_world(3, summed) == [(6.0, 30.0)] * 3
    assert summed(World()) == (1.0, 10.0)
