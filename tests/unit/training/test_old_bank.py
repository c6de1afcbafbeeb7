import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_run import MemorySource, make_bank, make_recipe

from mixbct.backbones.model import read_manifest
from mixbct.data.bank import FeatureBank
from mixbct.data.source import Selection
from mixbct.errors import BankError
from mixbct.methods import OldRows
from mixbct.methods.method import Need
from mixbct.schemas.model import OldPart
from mixbct.training.run import train
from mixbct.training.task import open_old_bank, open_task

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


def test_a_bank_of_more_or_of_what_can_be_read_is_paired(tmp_path: Path) -> None:
    """Rows are told by their keys, whatever was left out on either side, by however many steps."""
    whole = MemorySource()
    everything = Selection(whole, np.arange(52))
    readable = Selection(everything, np.flatnonzero(np.arange(52) % 9 != 4))
    part = Selection(Selection(readable, np.arange(10, 40)), np.arange(5, 25))
    for name, extracted in (("all", everything), ("readable", readable)):
        stored = make_bank(tmp_path / name, extracted)
        bank, old = open_old_bank(tmp_path / name, part, 4, NEEDS | {"paired_old"})
        assert old.paired
        assert [bank.keys()[row] for row in rows_of(stored, old)] == part.keys()
        np.testing.assert_array_equal(old.labels, part.labels())
    # it lacks some of the training images: by the names of the classes
    make_bank(tmp_path / "less", Selection(readable, np.arange(20)))
    assert not open_old_bank(tmp_path / "less", part, 4, NEEDS)[1].paired
    # the same keys of other images
    make_bank(tmp_path / "others", MemorySource(seed=1))
    assert not open_old_bank(tmp_path / "others", part, 4, NEEDS)[1].paired


def rows_of(bank: FeatureBank, old: OldRows) -> list[int]:
    """Find each old row in the bank by its vector."""
    vectors = old.read(np.arange(len(old.labels)))
    return [int((bank.all() == vector).all(1).nonzero()[0][0]) for vector in vectors]


def test_who_takes_part_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = MemorySource()
    make_bank(tmp_path / "bank", MemorySource(30, seed=7, classes=("x", "c", "a", "y", "b")))
    recipe = make_recipe(bank=tmp_path / "bank")
    _, task, part = open_task(recipe, source)
    assert task.old is not None
    # every fifth row is not credible: with five classes, all of x
    assert part == OldPart(
        classes=3,
        of_classes=5,
        features=18,
        of_features=30,
        training_classes=3,
        of_training_classes=5,
    )
    assert str(part) == (
        "of the old bank's 5 classes 3 take part, with 18 of 30 features; they are 3 of the 5 "
        "training classes"
    )
    assert open_task(make_recipe(), source)[2] is None
    assert caplog.messages == [str(part)]
    train(recipe, source, tmp_path / "run")
    manifest = read_manifest(tmp_path / "run")[1]
    assert manifest.old_part == part
    # a paired part of the bank's images, two classes of five
    make_bank(tmp_path / "all", source)
    chosen = Selection(source, np.flatnonzero(source.labels() < 2))
    paired = open_task(make_recipe("train.batch=4", bank=tmp_path / "all"), chosen)[2]
    assert paired is not None
    # class a lost its credible rows: all of its rows are among every fifth
    assert (paired.classes, paired.of_classes) == (1, 5)
    assert (paired.training_classes, paired.of_training_classes) == (1, 2)


def test_several_old_classes_can_be_one_training_class(tmp_path: Path) -> None:
    make_bank(tmp_path / "bank", MemorySource(30, seed=7, classes=("x", "y", "z")))
    (tmp_path / "map.tsv").write_text("x\ta\ny\ta\n", encoding="utf-8")
    recipe = make_recipe(f"method.label_map={tmp_path / 'map.tsv'}", bank=tmp_path / "bank")
    part = open_task(recipe, MemorySource())[2]
    assert part is not None
    assert (part.classes, part.of_classes, part.training_classes) == (2, 3, 1)


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
