"""Readers of .npy and .npz files, and of banks: files as NumPy writes them, and byte by byte."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from mixbct.data.foreign_bank import bank_of_vectors, declared_contract
from mixbct.errors import ContractError, DataError, FeatureError, MixbctError
from mixbct.gallery.foreign import VectorSource, open_source

VECTORS = np.random.default_rng(1).normal(size=(10, 3)).astype(np.float32)
KEYS = [f"item {i}" for i in range(10)]


def everything(
    source: VectorSource, rows: int = 4
) -> tuple[list[str], list[str | None], np.ndarray]:
    batches = [*source.read(rows)]
    assert not any(batch.bad for batch in batches)
    assert all(len(batch.keys) <= rows for batch in batches)
    assert sum(len(batch.keys) for batch in batches) == source.rows
    return (
        [key for batch in batches for key in batch.keys],
        [label for batch in batches for label in batch.labels],
        np.concatenate([batch.vectors for batch in batches]),
    )


@pytest.fixture
def keys(tmp_path: Path) -> str:
    (tmp_path / "keys.txt").write_bytes("\ufeff".encode() + "\r\n".join(KEYS).encode())
    return str(tmp_path / "keys.txt")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_an_array_with_a_file_of_keys(tmp_path: Path, keys: str, dtype: str) -> None:
    np.save(tmp_path / "old.npy", VECTORS.astype(dtype))
    source = open_source(str(tmp_path / "old.npy"), "old model", keys=keys)
    found, labels, vectors = everything(source)
    assert (found, labels) == (KEYS, [None] * 10)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, VECTORS.astype(dtype).astype(np.float32))
    assert source.contract == declared_contract("old model", 3)


def test_rows_without_a_label(tmp_path: Path, keys: str) -> None:
    np.save(tmp_path / "old.npy", VECTORS)
    (tmp_path / "labels.txt").write_text("a\n\n-1\nb\n" + "\n" * 6)
    source = open_source(
        str(tmp_path / "old.npy"), "old", keys=keys, labels=str(tmp_path / "labels.txt")
    )
    assert everything(source)[1] == ["a", None, None, "b", *[None] * 6]
    np.save(tmp_path / "labels.npy", np.array([3, -1, *[5] * 8]))
    source = open_source(
        str(tmp_path / "old.npy"), "old", keys=keys, labels=str(tmp_path / "labels.npy")
    )
    assert everything(source)[1] == ["3", None, *["5"] * 8]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_with_its_keys(tmp_path: Path, save) -> None:
    save(tmp_path / "old.npz", embeddings=VECTORS, ids=np.arange(10), labels=np.array(["x"] * 10))
    found, labels, vectors = everything(open_source(str(tmp_path / "old.npz"), "old"))
    assert (found, labels) == ([str(i) for i in range(10)], ["x"] * 10)
    assert np.array_equal(vectors, VECTORS)
    save(tmp_path / "named.npz", embeddings=VECTORS, who=np.array(KEYS))
    assert everything(open_source(str(tmp_path / "named.npz"), "old", keys="who"))[0] == KEYS


def test_a_bank_knows_its_contract(tmp_path: Path) -> None:
    bank_of_vectors(VECTORS, list("aabbccddee"), KEYS, "old", tmp_path / "bank")
    bank_of_vectors(VECTORS, None, KEYS, "old", tmp_path / "bare")
    source = open_source(str(tmp_path / "bank"))
    assert source.contract == declared_contract("old", 3)
    assert everything(source)[:2] == (KEYS, list("aabbccddee"))
    assert everything(open_source(str(tmp_path / "bare"), "old"))[1] == [None] * 10
    with pytest.raises(ContractError, match="not of 'new'"):
        open_source(str(tmp_path / "bank"), "new")


def test_what_is_missing_is_named(tmp_path: Path, keys: str) -> None:
    path = str(tmp_path / "old.npy")
    np.save(path, VECTORS)
    with pytest.raises(DataError, match="--keys FILE"):
        open_source(path, "old")
    with pytest.raises(ContractError, match="--contract NAME"):
        open_source(path, keys=keys)
    (tmp_path / "few.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="10 vectors, but there are 2 keys"):
        open_source(path, "old", keys=str(tmp_path / "few.txt"))
    with pytest.raises(DataError, match="10 vectors, but there are 2 labels"):
        open_source(path, "old", keys=keys, labels=str(tmp_path / "few.txt"))
    with pytest.raises(DataError, match="--preset immich cannot be used here"):
        open_source(path, "old", keys=keys, preset="immich")
    np.save(path, VECTORS[0])
    with pytest.raises(FeatureError, match="in 2 dimensions"):
        open_source(path, "old", keys=keys)
    np.savez(tmp_path / "two.npz", a=VECTORS, b=VECTORS)
    with pytest.raises(FeatureError, match="2 arrays of floats"):
        open_source(str(tmp_path / "two.npz"), "old")


def archive(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as written:
        for name, content in members.items():
            written.writestr(name, content)


def as_npy(array: np.ndarray, **how: bool) -> bytes:
    content = io.BytesIO()
    np.save(content, array, **how)
    return content.getvalue()


def test_no_object_is_loaded_and_no_promise_believed(tmp_path: Path) -> None:
    path = tmp_path / "old.npz"
    archive(path, {"x.npy": as_npy(VECTORS), "keys.npy": as_npy(np.array([print] * 3))})
    with pytest.raises(FeatureError, match="objects, which are never loaded"):
        open_source(str(path), "old")
    vast = as_npy(VECTORS).replace(b"(10, 3)", b"(10**9, 3)")
    archive(path, {"x.npy": vast})
    with pytest.raises(FeatureError, match="cannot be read"):
        open_source(str(path), "old")
    vast = as_npy(VECTORS).replace(b"(10, 3), }      ", b"(9999999, 3), } ")
    archive(path, {"x.npy": vast})
    with pytest.raises(FeatureError, match="120 follow the header"):
        open_source(str(path), "old")
    archive(path, {"x.npy": as_npy(np.asfortranarray(VECTORS))})
    with pytest.raises(FeatureError, match="by columns"):
        open_source(str(path), "old")


def test_a_checksum_that_does_not_hold_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "old.npz"
    np.savez(path, x=VECTORS, keys=np.array(KEYS))
    content = bytearray(path.read_bytes())
    at = content.index(VECTORS[5].tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(FeatureError, match="CRC"):
        everything(open_source(str(path), "old"))


@pytest.mark.parametrize("name", ["plain.npy", "stored.npz", "packed.npz"])
def test_mutated_files_end_in_named_errors(tmp_path: Path, keys: str, name: str) -> None:
    path = tmp_path / name
    if name == "plain.npy":
        np.save(path, VECTORS)
    else:
        save = np.savez if name == "stored.npz" else np.savez_compressed
        save(path, x=VECTORS, keys=np.array(KEYS), labels=np.arange(10))
    whole, rng = path.read_bytes(), np.random.default_rng(3)
    refused = 0
    for turn in range(200):
        content = bytearray(whole)
        for at in rng.integers(0, len(whole), rng.integers(1, 4)):
            content[at] = rng.integers(0, 256)
        path.write_bytes(content[: rng.integers(0, len(whole))] if turn % 4 == 0 else content)
        try:
            source = open_source(str(path), "old", keys=keys if name == "plain.npy" else None)
            for batch in source.read(4):
                assert batch.vectors.shape == (len(batch.keys), source.contract.dim)
        except MixbctError:
            refused += 1
    assert refused > 50
