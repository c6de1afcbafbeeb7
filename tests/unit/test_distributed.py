"""Devices, and what torch makes new numbers as."""

import pytest
import torch

from mixbct.distributed import default_dtype, device_name, open_device
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
