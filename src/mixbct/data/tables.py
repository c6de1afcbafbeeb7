"""Whole numbers from large text tables, a hundred million characters in a second.

The pairs of IJB and the index of a record file are such tables: lines of non-negative whole
numbers, parted by blanks or tabs.
"""

import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mixbct.errors import DataError, Error
from mixbct.reading import file_size, read_bytes, wrong_line

_MOST_DIGITS = 18  # that int64 is sure to hold


def read_integers(
    path: Path, columns: int, what: str, error: Error = DataError, skipped: list[str] | None = None
) -> Int64[np.ndarray, "c n"]:
    """Read lines of `columns` non-negative whole numbers.

    A byte order mark, carriage returns, blanks at the ends of lines and blank lines at the end of
    the file are not part of what somebody meant.

    Args:
        path: of the table.
        columns: how many numbers a line has.
        what: what they are, for errors ("a key and an offset").
        error: raised where the file cannot be read or a line holds something else; it is named.
        skipped: takes a message for each run of such lines, which are left out then.
    """
    file_size(path, f"table of {what}", error)
    plain = _plain(path, columns)
    if plain is not None:
        return plain.T
    text = read_bytes(path, f"table of {what}", error).decode("utf-8-sig", "backslashreplace")
    rows: list[list[int]] = []
    sound = True
    for number, line in enumerate(text.rstrip().split("\n") if text.strip() else [], start=1):
        words = line.split()
        good = len(words) == columns and all(map(is_whole, words))
        if good:
            rows.append(list(map(int, words)))
        elif sound:  # of a run of other lines the first is named
            expected = f"{what} as whole numbers parted by blanks"
            problem = wrong_line(path, number, expected, line.strip())
            if skipped is None:
                raise error(problem)
            skipped.append(problem)
        sound = good
    return np.array(rows, np.int64).reshape(-1, columns).T


def _plain(path: Path, columns: int) -> Int64[np.ndarray, "n c"] | None:
    """Read a table without a flaw; None for one that has to be looked at line by line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file
            values = np.loadtxt(path, np.int64, comments=None, ndmin=2, encoding="utf-8-sig")
        with path.open("rb") as file:
            lines = sum(part.count(b"\n") for part in iter(lambda: file.read(2**20), b""))
            file.seek(-1, 2)
            lines += file.read() != b"\n"
    except (OSError, ValueError):
        return None
    fits = values.shape == (lines, columns)  # blank lines are passed over
    return values if fits and values.min() >= 0 and values.max() < 10**_MOST_DIGITS else None


def is_whole(word: str) -> bool:
    """Return whether a word is a whole number, from 0, that fits into an int64."""
    return word.isascii() and word.isdigit() and len(word) <= _MOST_DIGITS
