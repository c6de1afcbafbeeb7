"""Whole numbers from text: plain and other tables agree, and bad lines are named."""

import time
from pathlib import Path

import numpy as np
import pytest

from mixbct.errors import DataError
from mixbct.reading import read_integers


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("highest", [9, 10**6, 10**9 - 1, 10**17])
def test_numbers_of_every_length_over_many_lines(end: str, highest: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wanted = (10 ** rng.uniform(0, np.log10(highest), (300, 3))).astype(np.int64)
    wanted[7] = (highest, 0, 9)
    (tmp_path / "t").write_bytes(
        "".join(" ".join(map(str, row)) + end for row in wanted.tolist()).encode().rstrip()
    )
    assert np.array_equal(read_integers(tmp_path / "t", 3, "three"), wanted.T)


def test_other_blanks_are_read_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("\ufeff1 2\n 3\t 4 \n05 6\n \n\r\n\n", encoding="utf-8")
    assert read_integers(tmp_path / "t", 2, "two").T.tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    "bad", ["1 2", "1 2 3 4", "", "1 -2 3", "1 2.0 3", "a b c", "9" * 19 + " 1 2"]
)
def test_a_bad_line_is_named(bad: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("1 2 3\n" * 40 + bad + "\n" + "4 5 6\n" * 40)
    with pytest.raises(DataError, match=r"t, line 41: expected three as whole numbers"):
        read_integers(tmp_path / "t", 3, "three")
    skipped: list[str] = []
    assert read_integers(tmp_path / "t", 3, "three", skipped=skipped).shape == (3, 80)
    assert len(skipped) == 1


def test_numbers_that_only_fit_together_across_lines_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("1 2 3\n4\n5 6\n")
    with pytest.raises(DataError, match="line 1"):
        read_integers(tmp_path / "t", 2, "two")


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no table of three at"):
        read_integers(tmp_path / "none", 3, "three")
    (tmp_path / "empty").touch()
    assert read_integers(tmp_path / "empty", 3, "three").shape == (3, 0)


@pytest.mark.parametrize("content", [b"\n" * 3_000_000, b" " * 3_000_000 + b"x", b"1" * 3_000_000])
def test_neither_blanks_nor_long_lines_take_long_or_much(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(content + b"\n1 2\n")
    began = time.process_time()
    with pytest.raises(DataError, match="t, line 1: expected two as whole numbers"):
        read_integers(tmp_path / "t", 2, "two")
    skipped: list[str] = []
    read_integers(tmp_path / "t", 2, "two", skipped=skipped)
    assert 0 < len(skipped) < 10
    assert time.process_time() - began < 5
