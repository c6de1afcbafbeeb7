"""Whole numbers from text: fast and slow stretches agree, and bad lines are named."""

from pathlib import Path

import numpy as np
import pytest

from mixbct.data import tables
from mixbct.data.tables import read_integers
from mixbct.errors import DataError


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("highest", [9, 10**6, 10**9 - 1, 10**17])
def test_numbers_of_every_length_over_many_chunks(
    end: str, highest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_CHUNK", 101)
    rng = np.random.default_rng(0)
    wanted = (10 ** rng.uniform(0, np.log10(highest), (300, 3))).astype(np.int64)
    wanted[7] = (highest, 0, 9)
    (tmp_path / "t").write_bytes(
        "".join(" ".join(map(str, row)) + end for row in wanted.tolist()).encode().rstrip()
    )
    assert np.array_equal(read_integers(tmp_path / "t", 3), wanted)


def test_other_blanks_are_read_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("1 2\n 3\t 4 \n05 6\n")
    assert read_integers(tmp_path / "t", 2).tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    "bad", ["1 2", "1 2 3 4", "", "1 -2 3", "1 2.0 3", "a b c", "9" * 19 + " 1 2"]
)
def test_a_bad_line_is_named(bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_CHUNK", 64)
    (tmp_path / "t").write_text("1 2 3\n" * 40 + bad + "\n" + "4 5 6\n" * 40)
    with pytest.raises(DataError, match=r"t, line 41: expected 3 whole numbers"):
        read_integers(tmp_path / "t", 3)


def test_numbers_that_only_fit_together_across_lines_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("1 2\n3 4 5 6\n")
    with pytest.raises(DataError, match="line 1"):
        read_integers(tmp_path / "t", 3)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_integers(tmp_path / "none", 3)
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match="is empty"):
        read_integers(tmp_path / "empty", 3)
