from pathlib import Path

import numpy as np
import pytest

from mixbct.data.record_index import read_index, write_index
from mixbct.errors import RecordError


def index(path: Path, text: bytes) -> Path:
    (path / "t.idx").write_bytes(text)
    return path / "t.idx"


def test_numbers_of_every_length_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = np.unique([int(rng.integers(0, 10**d)) for d in range(1, 19) for _ in range(9)])
    offsets = rng.permutation(keys)
    write_index(tmp_path / "t.idx", keys, offsets)
    text = (tmp_path / "t.idx").read_text()
    assert text.splitlines() == [f"{k}\t{o}" for k, o in zip(keys, offsets, strict=True)]
    for content in (text, text.replace("\n", "\r\n"), text.removesuffix("\n"), "\ufeff" + text):
        found = read_index(index(tmp_path, content.encode()))
        np.testing.assert_array_equal(found, [keys, offsets])


def test_keys_in_any_order_are_sorted(tmp_path: Path) -> None:
    found = read_index(index(tmp_path, b"7\t0\n2\t40\n10\t8\n"))
    assert found.tolist() == [[2, 7, 10], [40, 0, 8]]


@pytest.mark.parametrize(
    "line",
    [
        b"3\t",
        b"\t8",
        b"3\t8\t9",
        b"-3\t8",
        b"3\t8.0",
        b"x\t8",
        b"\xff\t8",
        b"",
        b"3",
        b"3\t" + b"9" * 19,
    ],
)
def test_a_damaged_line_is_named_or_skipped(tmp_path: Path, line: bytes) -> None:
    path = index(tmp_path, b"0\t0\n1\t4\n" + line + b"\n5\t12\n")
    with pytest.raises(RecordError, match=r"t\.idx, line 3: expected a key and an offset"):
        read_index(path)
    skipped: list[str] = []
    found = read_index(path, skipped)
    assert found.tolist() == [[0, 1, 5], [0, 4, 12]]
    assert len(skipped) == 1


def test_a_key_that_occurs_twice_is_named_or_skipped(tmp_path: Path) -> None:
    path = index(tmp_path, b"0\t0\n2\t4\n1\t8\n2\t12\n")
    with pytest.raises(RecordError, match=r"t\.idx: key 2 .*offsets 4 and 12") as caught:
        read_index(path)
    assert caught.value.keys == ["2"]
    skipped: list[str] = []
    found = read_index(path, skipped)
    assert found.tolist() == [[0, 1], [0, 8]]
    assert len(skipped) == 1


def test_two_keys_of_one_place_are_named_or_skipped(tmp_path: Path) -> None:
    path = index(tmp_path, b"0\t0\n2\t4\n1\t8\n3\t4\n")
    with pytest.raises(RecordError, match=r"t\.idx: offset 4 .*keys 2 and 3"):
        read_index(path)
    skipped: list[str] = []
    found = read_index(path, skipped)
    assert found.tolist() == [[0, 1], [0, 8]]


def test_an_empty_index_says_so(tmp_path: Path) -> None:
    for content in (b"", b"\n", b"\xef\xbb\xbf"):
        with pytest.raises(RecordError, match=r"t\.idx is empty; .*delete the index"):
            read_index(index(tmp_path, content), [])
    (tmp_path / "pipe").mkdir()
    with pytest.raises(RecordError, match=r"pipe cannot be read as a table .*it is a folder"):
        read_index(tmp_path / "pipe")
    with pytest.raises(
        RecordError, match=r"there is no table of a key and an offset at .*none\.idx"
    ):
        read_index(tmp_path / "none.idx")
