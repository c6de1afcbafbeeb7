from pathlib import Path

import numpy as np
import pytest

from mixbct.data.array import ArraySource, write_array
from mixbct.data.folder import FolderSource
from mixbct.data.source import Selection, read_lines, readable_rows, write_lines
from mixbct.errors import DataError
from mixbct.schemas.model import Preprocessing


@pytest.fixture
def gappy(tmp_path: Path) -> ArraySource:
    labels = np.array([4, 2, 4, 2, 0])
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    keys = ["k0", "k1", "k2", "k3", "k4"]
    groups = ["x", "y", "x", "y", "x"]
    write_array(tmp_path / "a", images, labels, list("abcde"), keys, groups, "t", {})
    return ArraySource(tmp_path / "a")


def test_gaps_in_labels_are_closed(gappy: ArraySource) -> None:
    chosen = Selection(gappy, np.array([2, 1, 0]))
    assert chosen.classes() == ("c", "e")
    assert chosen.labels().tolist() == [1, 0, 1]
    assert chosen.keys() == ["k2", "k1", "k0"]
    assert chosen.groups() == ["x", "y", "x"]
    assert chosen.read(np.array([1, 0]))[:, 0, 0, 0].tolist() == [1, 2]


def test_selection_of_a_selection(gappy: ArraySource) -> None:
    inner = Selection(Selection(gappy, np.array([4, 3, 2, 1])), np.array([3, 0]))
    assert inner.source is gappy
    assert inner.digest() == Selection(gappy, np.array([1, 4])).digest()
    assert inner.keys() == ["k1", "k4"]
    every = Selection(Selection(gappy, np.arange(5)), np.arange(5))
    assert every.digest() == gappy.digest()
    assert [inner.classes()[i] for i in inner.labels()] == ["c", "a"]


@pytest.mark.parametrize("row", [-1, 5])
def test_rows_outside_the_source_are_refused(gappy: ArraySource, row: int) -> None:
    with pytest.raises(DataError, match=rf"{row}.*has 5"):
        Selection(gappy, np.array([row]))


def test_readable_rows_finds_what_cannot_be_decoded(tmp_path: Path, make_folder) -> None:
    path = make_folder(tmp_path / "s", {"a": 5, "b": 5})
    for key in ("a/1.png", "b/4.png"):
        (path / key).write_bytes(b"broken")
    source = FolderSource(path, Preprocessing(size=8, channels=3))
    rows, bad = readable_rows(source, chunk=3)
    assert bad == ["a/1.png", "b/4.png"]
    assert rows.tolist() == [0, 2, 3, 4, 5, 6, 7, 8]


def test_lines_come_back_whatever_they_hold(tmp_path: Path) -> None:
    lines = ["字/a b", "", "x\u2028y\x0bz", "tab\there"]
    write_lines(tmp_path / "keys.txt", lines)
    assert read_lines(tmp_path / "keys.txt") == lines
    write_lines(tmp_path / "keys.txt", [])
    assert read_lines(tmp_path / "keys.txt") == []


@pytest.mark.parametrize("line", ["a\nb", "a\rb"])
def test_line_breaks_in_keys_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataError, match="line break"):
        write_lines(tmp_path / "keys.txt", [line])
