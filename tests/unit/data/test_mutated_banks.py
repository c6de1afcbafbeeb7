"""Two thousand damaged banks, splits, lists and maps: a named error or plain data."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_mutations import measured, mutate

from mixbct.data.bank import FeatureBank
from mixbct.data.foreign_bank import bank_of_vectors, read_features, read_names
from mixbct.data.info import info
from mixbct.data.split import make_split, open_part
from mixbct.errors import MixbctError
from mixbct.features.denoise import denoise
from mixbct.training.task import read_label_map

MUTANTS = 60
KEYS = [f"k{i} 字" for i in range(24)]
LABELS = [f"c{i % 4}" for i in range(24)]
VECTORS = np.random.default_rng(0).normal(size=(24, 3))


def mutated(path: Path, use: Callable[[], None], count: int = MUTANTS) -> int:
    """Use a file that is damaged in many ways, and then whole; return how often that went well."""
    rng = np.random.default_rng(1)
    whole = path.read_bytes()
    use()
    fine = 0
    for number in range(count):
        changed = mutate(whole, rng)
        # most of a .npy file is padding of its header: every other time the damage is in front
        if number % 2 and path.suffix == ".npy":
            head = 12 + int(rng.integers(60))
            changed = mutate(whole[:head], rng) + whole[head:]
        path.write_bytes(changed)
        fine += measured(use, 10_000 + len(changed), trace=number % 6 == 0)
    path.write_bytes(whole)
    use()
    return fine


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    made = bank_of_vectors(VECTORS, LABELS, KEYS, "net", tmp_path / "bank")
    denoise(made)
    return made.path


def use_bank(path: Path) -> None:
    """Do with a bank what commands do, and check what comes out."""
    opened = FeatureBank(path)
    source = opened
    opened.verify()
    found = opened.all()
    assert found.shape == (len(source), opened.manifest.dim)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert len(source.keys()) == len(source) == 24
    if source.classes():
        assert source.labels().max() < len(source.classes())
    assert info(source).images == 24
    credible = opened.credible()
    assert credible is None or credible.shape == (24,)


NAMES = ("manifest.json", "features.npy", "labels.npy", "keys.txt", "credible.json", "credible.npy")


@pytest.mark.parametrize("name", NAMES)
def test_mutated_banks(bank: Path, name: str) -> None:
    fine = mutated(bank / name, lambda: use_bank(bank))
    # what has a digest is found whatever was changed (unless a cut cut nothing)
    assert fine <= (40 if name.endswith(".json") else 3)


@pytest.mark.parametrize("name", NAMES)
def test_mutated_banks_without_digests(bank: Path, name: str) -> None:
    for file, fields in (("manifest.json", ("digests", "norms")), ("credible.json", ("sha256",))):
        content = json.loads((bank / file).read_text(encoding="utf-8"))
        for field in fields:
            del content[field]
        (bank / file).write_text(json.dumps(content), encoding="utf-8")
    mutated(bank / name, lambda: use_bank(bank))


@pytest.mark.parametrize("name", ["manifest.json", "new_train.npy", "query.npy"])
def test_mutated_splits(tmp_path: Path, bank: Path, name: str) -> None:
    source = FeatureBank(bank)
    split = tmp_path / "split"
    parts = make_split(source, split, scenario="open-data", test_classes=2).parts

    def use() -> None:
        for part in parts:
            rows = open_part(source, split, part)
            assert 0 < len(rows) == len(set(rows.keys())) <= len(source)
            assert rows.labels().max() < len(rows.classes())

    # a part has a digest: it is found whatever was changed (unless a cut cut nothing)
    assert mutated(split / name, use) < (MUTANTS if name == "manifest.json" else 3)
    manifest = split / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    del content["digests"]
    manifest.write_text(json.dumps(content), encoding="utf-8")
    assert mutated(split / name, use) < MUTANTS


def test_mutated_arrays_of_vectors(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"
    np.save(path, VECTORS)
    numbers = iter(range(10**6))

    def use() -> None:
        features = read_features(path)
        names = [str(i) for i in range(len(features))]
        made = bank_of_vectors(features, None, names, "net", tmp_path / f"bank{next(numbers)}")
        assert len(made.all()) == len(features)

    assert mutated(path, use) < MUTANTS
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("kind", ["text", "array of text", "array of integers"])
def test_mutated_names(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("names.txt" if kind == "text" else "names.npy")
    if kind == "text":
        path.write_text("\n".join(KEYS), encoding="utf-8")
    else:
        np.save(path, np.arange(24) if kind.endswith("integers") else np.array(KEYS))

    def use() -> None:
        assert all(read_names(path, "labels"))

    assert mutated(path, use, 150) < 150


def test_mutated_label_maps(tmp_path: Path) -> None:
    path = tmp_path / "map.tsv"
    path.write_text("".join(f"{key}\t{label}\n" for key, label in zip(KEYS, LABELS, strict=True)))

    def use() -> None:
        assert set(read_label_map(path, KEYS, LABELS).values()) <= set(LABELS)

    assert mutated(path, use, 300) < 250


def test_an_unfinished_bank_that_was_damaged(tmp_path: Path) -> None:
    """The same again goes on, begins anew, or says what to delete."""
    made = bank_of_vectors(VECTORS, LABELS, KEYS, "net", tmp_path / "bank").path
    (tmp_path / "bank").rename(tmp_path / "bank.partial")
    for name in ("manifest.json", "features.npy", "labels.npy", "keys.txt"):
        path = tmp_path / "bank.partial" / name
        rng, whole = np.random.default_rng(3), path.read_bytes()
        for _ in range(20):
            path.write_bytes(mutate(whole, rng))
            with pytest.raises(MixbctError):
                bank_of_vectors(VECTORS, LABELS, KEYS, "net", made)
            with pytest.raises(MixbctError, match="unfinished"):
                FeatureBank(made)
        path.write_bytes(whole)
