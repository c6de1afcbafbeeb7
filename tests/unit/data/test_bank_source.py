"""A bank in the place of images: same keys, labels, digest; and banks of foreign vectors."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from mixbct.data import open_source
from mixbct.data.bank import FeatureBank, encoder_of, normalise
from mixbct.data.bank_writer import BankWriter
from mixbct.data.convert import convert
from mixbct.data.foreign_bank import (
    bank_of_vectors,
    banks_beside,
    declared_contract,
    read_features,
    read_names,
)
from mixbct.data.info import info
from mixbct.data.source import Selection, Source, digest_rows
from mixbct.data.split import make_split, open_part
from mixbct.errors import BankError, DataError, FeatureError, MixbctError
from mixbct.features.denoise import denoise
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
    assert isinstance(source, FeatureBank)
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
        ({"labels": LABELS[1:]}, DataError, "20 features, 19 labels and 20 keys: expected"),
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


def test_files_of_vectors(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", VECTORS.astype(np.float16))
    assert read_features(tmp_path / "f.npy").dtype == np.float16
    for name, content in (
        ("three.npy", np.zeros((2, 2, 2))),
        ("int.npy", np.zeros((2, 2), np.int64)),
        ("big.npy", np.zeros((2, 2), ">f4")),
    ):
        np.save(tmp_path / name, content)
        with pytest.raises(FeatureError, match=r"as float16 or float32 or float64"):
            read_features(tmp_path / name)
    np.save(tmp_path / "objects.npy", np.array([{}, "x"], dtype=object), allow_pickle=True)
    with pytest.raises(
        FeatureError, match=r"objects\.npy cannot be read .*holds Python objects, which are never"
    ):
        read_features(tmp_path / "objects.npy")
    with pytest.raises(DataError, match=r"objects\.npy cannot be read .*holds Python objects"):
        read_names(tmp_path / "objects.npy", "labels")
    with pytest.raises(FeatureError, match=r"there is no file of features at .*none\.npy"):
        read_features(tmp_path / "none.npy")
    np.save(tmp_path / "narrow.npy", np.zeros((12, 0), np.float32))
    with pytest.raises(FeatureError, match=r"vectors without a number: \(12, 0\)"):
        read_features(tmp_path / "narrow.npy")
    np.savez(tmp_path / "zip.npz", VECTORS)
    (tmp_path / "zip.npy").write_bytes((tmp_path / "zip.npz").read_bytes())
    for name in ("zip.npz", "zip.npy"):
        with pytest.raises(FeatureError, match=r"is a zip archive .*np.save each array by itself"):
            read_features(tmp_path / name)
        with pytest.raises(DataError, match="is a zip archive"):
            read_names(tmp_path / name, "labels")


def test_names_in_arrays(tmp_path: Path) -> None:
    for names, read in (
        (np.array([3, 1, 2]), ["3", "1", "2"]),
        (np.array([2**63], np.uint64), [str(2**63)]),
        (np.array(["x", "字"]), ["x", "字"]),
        (np.array(["x", "字"], ">U1"), ["x", "字"]),
    ):
        np.save(tmp_path / "names.npy", names)
        assert read_names(tmp_path / "names.npy", "labels") == read
    for wrong, says in (
        (VECTORS, r"in 1 dimensions"),
        (VECTORS[0], "expected labels as text or integers"),
        (np.array([b"bytes"]), "as text or integers"),
        (
            np.array([4, -1]),
            r"line 2: expected a label \(leave out rows.*found '-1'",
        ),
        (np.array(["a", ""]), "line 2: expected a label"),
    ):
        np.save(tmp_path / "names.npy", wrong)
        with pytest.raises(DataError, match=says):
            read_names(tmp_path / "names.npy", "labels")


@pytest.mark.parametrize(
    "content",
    [
        b"anna\nbert\n",
        b"anna\nbert",
        b"\xef\xbb\xbfanna\nbert\n",
        b"anna\r\nbert\r\n",
        b"\xef\xbb\xbfanna  \r\nbert\t\r\n\r\n\r\n",
        b"anna\nbert\n\n  \n",
    ],
)
def test_names_in_text_as_other_programs_write_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    assert read_names(path, "labels") == ["anna", "bert"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"anna\n\nbert\n", r"names\.txt, line 2: expected a label \(leave.*found ''"),
        (b"\n", r"0 labels|line 1"),
        (b"anna\n-1\n", r"line 2: expected a label .*found '-1'"),
        ("anna\né\n".encode("latin-1"), r"line 2: expected a file of labels in UTF-8.*0xe9"),
        (b"anna\nb\0\n", r"line 2: .* found a NUL"),
    ],
)
def test_lines_that_name_nobody(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        make(tmp_path / "bank", labels=read_names(path, "labels"))


def test_names_keep_what_is_no_line_break(tmp_path: Path) -> None:
    names = ["b\u2028c", "b\x85c", "a\tb", "c\x0b", "-1"]
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    assert read_names(tmp_path / "names.txt", "keys") == names


def test_labels_that_only_a_computer_tells_apart(tmp_path: Path) -> None:
    """As an array of text NumPy would drop the NUL, and two people would be one."""
    with pytest.raises(DataError, match=r"the label 'c1\\x00' holds .* a NUL"):
        make(tmp_path / "bank", labels=["c1\0", *LABELS[1:]])
    with pytest.raises(DataError, match=r"the label .*half a character"):
        make(tmp_path / "bank", labels=["\udc80", *LABELS[1:]])
    labels = ["c1 ", "C1", "c1\u200b", *LABELS[3:]]
    bank = make(tmp_path / "bank", labels=labels)
    assert [bank.classes()[i] for i in bank.labels()] == labels


def test_no_two_lists_of_rows_have_one_digest() -> None:
    rows = [
        [("a\tb", "c", "")],
        [("a", "b\tc", "")],
        [("a", "b", "\tc")],
        [("a", "b", "c"), ("d", "e", "f")],
        [("a", "b", "c\nd\te\tf")],
        [("a", "b", "c"), ("", "", "")],
        [("", "", ""), ("a", "b", "c")],
        [("1:a", "b", "c")],
        [("", "", "1:a1:b1:c")],
    ]
    assert len({digest_rows(row) for row in rows}) == len(rows)
    # what stands in manifests of today
    text = "a b\tc\td\n字\t\t\n"
    known = hashlib.sha256(text.encode()).hexdigest()
    assert digest_rows([("a b", "c", "d"), ("字", "", "")]) == known


def test_a_bank_without_labels(tmp_path: Path) -> None:
    bank = make(tmp_path / "bank", labels=None)
    assert bank.classes() == ()
    assert bank.manifest.data_digest != make(tmp_path / "other").manifest.data_digest
    found = info(open_source(tmp_path / "bank"))
    assert (found.images, found.classes, found.largest_class) == (20, 0, 0)
    with pytest.raises(BankError, match="has no labels"):
        make_split(open_source(tmp_path / "bank"), tmp_path / "split")
    with pytest.raises(BankError, match="has no labels"):
        denoise(bank)


def test_the_norm_of_the_mean_shows_a_cone(tmp_path: Path) -> None:
    make(tmp_path / "wide", features=np.concatenate([VECTORS[:10], -VECTORS[:10]]))
    make(tmp_path / "cone", features=VECTORS + 50)
    assert info(open_source(tmp_path / "wide")).mean_norm == pytest.approx(0, abs=1e-6)
    assert 0.99 < (info(open_source(tmp_path / "cone")).mean_norm or 0) < 1


def test_one_name_stands_for_one_model(tmp_path: Path) -> None:
    bank = make(tmp_path / "first")
    contract = bank.manifest.contract
    other = np.random.default_rng(7).normal(size=VECTORS.shape)
    assert [b.path for b in banks_beside(tmp_path / "new", contract)] == [tmp_path / "first"]
    assert banks_beside(tmp_path / "first", contract) == []
    assert banks_beside(tmp_path / "new", declared_contract("x", 3)) == []
    # the very vectors, scaled, and some of them under more keys
    make(tmp_path / "same", features=7 * VECTORS[:9], labels=LABELS[:9], keys=KEYS[:9], like=[bank])
    for place, changes in enumerate(
        (
            {"features": other},
            {"features": other, "keys": [*KEYS[:3], *(f"other {i}" for i in range(17))]},
            {"features": VECTORS * [1, -1, 1]},
        )
    ):
        with pytest.raises(BankError, match=r"first holds other vectors .* 'net': the mean cosine"):
            make(tmp_path / f"{place}", like=[bank], **changes)
        assert not (tmp_path / f"{place}").exists()
    strange = [f"s{i}" for i in range(20)]
    cone = make(tmp_path / "cone", features=VECTORS + 9)
    make(tmp_path / "near", features=other + 9, keys=strange, like=[cone])
    for place, features in enumerate((other - 9, 50 * (other + 9))):
        with pytest.raises(BankError, match=r"cone holds other vectors.*--same-model"):
            make(tmp_path / f"c{place}", features=features, keys=strange, like=[cone])
    with pytest.raises(BankError, match=r"3-d of x .* holds 3-d ones of net .*of the same model"):
        make(tmp_path / "x", name="x", like=[bank])
