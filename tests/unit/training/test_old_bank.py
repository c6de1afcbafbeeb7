import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_run import MemorySource, make_bank

from mixbct.errors import BankError
from mixbct.methods.method import Need
from mixbct.training.old_bank import open_old_bank

NEEDS: frozenset[Need] = frozenset({"old", "credible"})


def test_a_bank_of_the_same_images_is_paired(tmp_path: Path) -> None:
    source = MemorySource()
    make_bank(tmp_path / "bank", source)
    bank, old = open_old_bank(tmp_path / "bank", source, 4, NEEDS)
    assert len(bank) == len(source)
    assert old.paired
    np.testing.assert_array_equal(old.labels, source.labels())
    np.testing.assert_array_equal(old.credible, np.arange(52) % 5 != 0)


def test_a_bank_of_other_images_joins_by_class_names(tmp_path: Path) -> None:
    make_bank(tmp_path / "bank", MemorySource(30, seed=7, classes=("x", "c", "a")))
    _, old = open_old_bank(tmp_path / "bank", MemorySource(), 4, NEEDS)
    assert not old.paired
    # x is not trained; c is the third class, a the first
    np.testing.assert_array_equal(old.labels, np.tile([-1, 2, 0], 10))


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    source = MemorySource()
    path = tmp_path / "bank"
    with pytest.raises(BankError, match="there is no feature bank"):
        open_old_bank(path, source, 4, NEEDS)
    make_bank(path, source, denoised=False)
    with pytest.raises(BankError, match=r"not denoised: run `mixbct denoise"):
        open_old_bank(path, source, 4, NEEDS)
    with pytest.raises(BankError, match=r"4-d features of old .*to have 5: set model.dim = 4"):
        open_old_bank(path, source, 5, NEEDS)
    shutil.rmtree(path)
    make_bank(path, MemorySource(classes=("v", "w", "x", "y", "z")))
    with pytest.raises(
        BankError, match=r"shares no class name.*v, w, x, …; the data's are a, b, c"
    ):
        open_old_bank(path, source, 4, NEEDS)


def test_what_is_not_needed_is_not_asked_for(tmp_path: Path) -> None:
    source = MemorySource()
    make_bank(tmp_path / "bank", source, denoised=False)
    _, old = open_old_bank(tmp_path / "bank", source, 4, frozenset({"old", "paired_old"}))
    assert old.credible is None
    with pytest.raises(BankError, match=r"not extracted from these training images.*'bank'"):
        open_old_bank(tmp_path / "bank", MemorySource(seed=1), 4, frozenset({"paired_old"}))
