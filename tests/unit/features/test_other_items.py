"""Stored vectors stand for a model only where their keys name the same items."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mixbct.data.bank import FeatureBank, root_digest
from mixbct.data.bank_writer import BankWriter
from mixbct.data.source import Source
from mixbct.errors import BankError
from mixbct.features.extract import StoredVectors
from mixbct.schemas.data import BankManifest
from mixbct.schemas.model import Contract, Preprocessing
from mixbct.workflows.adapt import items_of_banks

LABELS = np.arange(12) % 3


class Items(Source):
    """Things with keys and classes, of which nothing is ever read."""

    def __init__(self, keys: Sequence[str], classes: tuple[str, ...], what: str) -> None:
        super().__init__(what, list(keys), LABELS, classes)
        self.what = what

    def read(self, rows: np.ndarray) -> np.ndarray:
        raise AssertionError("nobody asked for it")

    def digest(self) -> str:
        return self.what


NAMED, NUMBERED = [f"a/{i}.png" for i in range(12)], [str(i) for i in range(1, 13)]
A = ("anna", "bela", "carl")


def bank_of(path: Path, source: Source, known: bool = True) -> FeatureBank:
    features = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    contract = Contract(
        name="old", weights="w", preprocessing=Preprocessing(size=16, channels=1), dim=4
    )
    manifest = BankManifest(
        contract=contract,
        data_digest=source.digest(),
        source_digest=root_digest(source) if known else None,
        rows=12,
        dim=4,
        dtype="float32",
        classes=source.classes(),
    )
    writer = BankWriter(path, manifest, source.labels(), source.keys(), resume=False)
    writer.write(range(12), features, source.keys())
    return writer.finish()


@pytest.mark.parametrize(
    ("keys", "classes", "refusal"),
    [
        # more images of the same people since, and people who are called otherwise
        (NAMED, A, None),
        (NAMED, ("1", "2", "3"), None),
        # the same names, of others
        (NAMED, ("bela", "carl", "anna"), "12 of 12 items with one key have two classes"),
        (NAMED, ("anna", "carl", "bela"), "8 of 12 items with one key have two classes"),
        (NUMBERED, A, None),
        (NUMBERED, ("bela", "carl", "anna"), "12 of 12 items with one key have two classes"),
        # nothing tells that they are the same
        (NUMBERED, ("1", "2", "3"), "keys that are mere numbers may name other items elsewhere"),
    ],
)
def test_other_data(
    tmp_path: Path, keys: list[str], classes: tuple[str, ...], refusal: str | None
) -> None:
    made_of, asked = Items(keys, A, "of last year"), Items(keys, classes, "of this year")
    stored = StoredVectors(bank_of(tmp_path / "bank", made_of))
    np.testing.assert_array_equal(stored.embed_source(made_of), stored._bank.all())
    others = bank_of(tmp_path / "others", asked)
    if refusal is None:
        assert len(stored.embed_source(asked)) == 12
        assert items_of_banks(stored._bank, others).digest == made_of.digest()
        return
    with pytest.raises(BankError, match=f"{refusal}.*; the bank .* was not made of"):
        stored.embed_source(asked)
    with pytest.raises(BankError, match=refusal):
        items_of_banks(stored._bank, others)


def test_numbers_of_classes_are_each_sides_own(tmp_path: Path) -> None:
    stored = StoredVectors(bank_of(tmp_path / "bank", Items(NAMED, ("1", "2", "3"), "old")))
    assert len(stored.embed_source(Items(NAMED, ("2", "3", "1"), "new"))) == 12


def test_vectors_that_came_from_elsewhere_are_held_to_their_classes_alone(tmp_path: Path) -> None:
    """Nobody knows of which data they are; a person who was renamed is one of a few."""
    stored = StoredVectors(bank_of(tmp_path / "bank", Items(NUMBERED, A, ""), known=False))
    assert len(stored.embed_source(Items(NUMBERED, A, "records"))) == 12
    renamed = Items(NUMBERED, ("anna", "bela", "dora"), "records")
    assert len(stored.embed_source(renamed)) == 12
    with pytest.raises(BankError, match="12 of 12 items"):
        stored.embed_source(Items(NUMBERED, ("bela", "carl", "anna"), "records"))
