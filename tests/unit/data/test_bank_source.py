"""A bank in the place of images: same keys, labels, digest; and banks of foreign vectors."""

from pathlib import Path

import numpy as np
import pytest

from mixbct.data import open_source
from mixbct.data.bank import BankWriter, FeatureBank, normalise
from mixbct.data.bank_source import BankSource, encoder_of
from mixbct.data.convert import convert
from mixbct.data.foreign_bank import bank_of_vectors, read_features, read_names
from mixbct.data.source import Selection, Source
from mixbct.data.split import make_split, open_part
from mixbct.errors import BankError, DataError, FeatureError, MixbctError
from mixbct.schemas.data import BankManifest
from mixbct.schemas.model import Preprocessing

KEYS = [f"k{i}" for i in range(20)]
LABELS = [f"c{i % 4}" for i in range(20)]
VECTORS = np.random.default_rng(0).normal(size=(20, 3))


def make(path: Path, **changes: object) -> FeatureBank:
    content = {"features": VECTORS, "labels": LABELS, "keys": KEYS, "name": "net"} | changes
    return bank_of_vectors(out=path, **content)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path, make_folder) -> Path:
    path: Path = make_folder(tmp_path / "images", {"a": 5, "b": 4, "c": 6, "d": 5})
    return path


def bank_of(source: Source, path: Path) -> FeatureBank:
    """Write what `extract` would, with noise for features."""
    manifest = BankManifest(
        contract=make(path.with_name("some")).manifest.contract,
        data_digest=source.digest(),
        rows=len(source),
        dim=3,
        dtype="float16",
        classes=source.classes(),
    )
    writer = BankWriter(path, manifest, source.labels(), source.keys(), resume=False)
    features = np.random.default_rng(1).normal(size=(len(source), 3))
    writer.write(range(len(source)), features, source.keys())
    return writer.finish()


def test_a_bank_is_a_source_of_normalised_vectors(tmp_path: Path) -> None:
    bank = make(tmp_path / "bank", dtype="float16")
    source = open_source(tmp_path / "bank")
    assert isinstance(source, BankSource)
    assert isinstance(source, Source)
    rows = np.array([7, 0, 7, 19])
    read = source.read(rows)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, normalise(VECTORS.astype(np.float16)[rows]))
    assert source.keys() == KEYS
    assert [source.classes()[i] for i in source.labels()] == LABELS
    assert source.groups() == [""] * 20
    assert source.digest() == bank.manifest.data_digest
    assert str(tmp_path / "bank") in str(source)
    assert encoder_of(source) == encoder_of(Selection(source, rows)) == bank.manifest.contract


def test_a_split_of_the_images_is_one_of_their_bank(tmp_path: Path, folder: Path) -> None:
    images = open_source(folder)
    whole = Selection(images, np.arange(len(images)))
    bank_of(whole, tmp_path / "bank")
    make_split(images, tmp_path / "split", scenario="open-data", test_classes=2)
    ours, theirs = (
        open_part(open_source(path), tmp_path / "split", "new_train")
        for path in (folder, tmp_path / "bank")
    )
    assert ours.digest() == theirs.digest()
    assert ours.keys() == theirs.keys()
    assert ours.classes() == theirs.classes()
    assert encoder_of(ours) is None
    bank = open_source(tmp_path / "bank")
    again = make_split(bank, tmp_path / "again", scenario="open-data", test_classes=2)
    assert again.source_digest == images.digest()


def test_who_takes_what(tmp_path: Path, folder: Path) -> None:
    bank = make(tmp_path / "bank")
    takes = bank.manifest.contract.as_input()
    assert len(open_source(tmp_path / "bank", takes)) == 20
    other = make(tmp_path / "other", name="another net").manifest.contract.as_input()
    with pytest.raises(BankError, match=r"takes 3-d vectors of another net .* holds those of net"):
        open_source(tmp_path / "bank", other)
    with pytest.raises(DataError, match=r"holds images, but the model takes 3-d vectors of net"):
        open_source(folder, takes)
    with pytest.raises(DataError, match="holds a feature-bank, not images"):
        open_source(tmp_path / "bank", Preprocessing(size=8, channels=3))
    with pytest.raises(DataError, match="holds vectors, not images"):
        convert(open_source(tmp_path / "bank"), tmp_path / "out")


def test_foreign_vectors_with_the_same_keys_and_labels_are_paired(tmp_path: Path) -> None:
    first = make(tmp_path / "first").manifest
    same = make(tmp_path / "same", features=VECTORS[:, :2], name="x").manifest
    assert same.data_digest == first.data_digest
    assert same.contract.id != first.contract.id
    for place, changes in enumerate(
        ({"keys": KEYS[::-1]}, {"labels": ["z", *LABELS[1:]]}, {"keys": ["z", *KEYS[1:]]})
    ):
        assert make(tmp_path / f"{place}", **changes).manifest.data_digest != first.data_digest


def nan(row: int) -> np.ndarray:
    return np.where(np.arange(20)[:, None] == row, np.nan, VECTORS)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"features": nan(4)}, FeatureError, r"NaN or infinity in 1 of 20 features \(k4\)"),
        ({"features": VECTORS * (np.arange(20) != 3)[:, None]}, FeatureError, r"zero.*\(k3\)"),
        ({"labels": LABELS[1:]}, DataError, "20 features, 19 labels and 20 keys do not fit"),
        ({"keys": ["k1", *KEYS[1:]]}, DataError, r"the key 'k1' is there 2 times"),
        ({"keys": ["a\nb", *KEYS[1:]]}, DataError, "line break"),
        ({"features": VECTORS[:0], "labels": [], "keys": []}, DataError, "0 features, 0 labels"),
    ],
)
def test_foreign_vectors_that_are_refused_leave_nothing(
    tmp_path: Path, changes: dict[str, object], error: type[MixbctError], says: str
) -> None:
    with pytest.raises(error, match=says):
        make(tmp_path / "bank", **changes)
    assert list(tmp_path.iterdir()) == []


def test_files_of_vectors_and_names(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", VECTORS.astype(np.float16))
    assert read_features(tmp_path / "f.npy").dtype == np.float16
    for name, content in (
        ("three.npy", np.zeros((2, 2, 2))),
        ("int.npy", np.zeros((2, 2), np.int64)),
    ):
        np.save(tmp_path / name, content)
        with pytest.raises(FeatureError, match="expected rows of float16, float32, float64"):
            read_features(tmp_path / name)
    np.save(tmp_path / "objects.npy", np.array([{}, "x"], dtype=object), allow_pickle=True)
    with pytest.raises(FeatureError, match=r"objects.npy is not a readable array"):
        read_features(tmp_path / "objects.npy")
    with pytest.raises(DataError, match=r"objects.npy is not a readable file of labels"):
        read_names(tmp_path / "objects.npy", "labels")
    with pytest.raises(FeatureError, match=r"none.npy is not a readable array"):
        read_features(tmp_path / "none.npy")
    np.save(tmp_path / "numbers.npy", np.array([3, 1, 2]))
    assert read_names(tmp_path / "numbers.npy", "labels") == ["3", "1", "2"]
    np.save(tmp_path / "text.npy", np.array(["x", "字"]))
    assert read_names(tmp_path / "text.npy", "labels") == ["x", "字"]
    with pytest.raises(DataError, match="expected labels as one row of text or integers"):
        read_names(tmp_path / "f.npy", "labels")
    for content in ("a\nb\u2028c\n", "a\nb\u2028c", "a\r\nb\u2028c\r\n"):
        (tmp_path / "names.txt").write_bytes(content.encode())
        assert read_names(tmp_path / "names.txt", "keys") == ["a", "b\u2028c"]
    (tmp_path / "latin.txt").write_bytes("é\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.txt is not a readable file of keys"):
        read_names(tmp_path / "latin.txt", "keys")
