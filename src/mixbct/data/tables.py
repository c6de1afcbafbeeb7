"""Whole numbers from large text tables, a few hundred million characters in seconds."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from mixbct.errors import DataError

_CHUNK = 2**19  # stays in the cache
_MOST_DIGITS = 18  # that int64 is sure to hold


def read_integers(path: Path, columns: int) -> Int64[np.ndarray, "n c"]:
    """Read lines of `columns` non-negative whole numbers, parted by blanks.

    Lines with single blanks and nothing else are read by vectorised arithmetic on their
    characters; a stretch of half a million characters with anything else in it, line by line.

    Raises:
        DataError: the file cannot be read, is empty, or a line holds something else; it is named.
    """
    parts: list[np.ndarray] = []
    done, rest = 0, b""
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                text = rest + chunk
                end = text.rfind(b"\n") + 1
                rest = text[end:]
                parts.append(_numbers(path, text[:end], columns, done))
                done += len(parts[-1])
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if rest:
        parts.append(_numbers(path, rest + b"\n", columns, done))
    table = np.concatenate(parts) if parts else np.empty((0, columns), np.int64)
    if not len(table):
        raise DataError(f"{path} is empty; expected lines of {columns} whole numbers")
    return table


def _numbers(path: Path, text: bytes, columns: int, before: int) -> Int64[np.ndarray, "n c"]:
    """Read whole lines, the first of them being line `before` + 1."""
    values = _plain(np.frombuffer(text.replace(b"\r\n", b"\n"), np.uint8), columns)
    if values is not None:
        return values
    rows = []
    for number, line in enumerate(text.split(b"\n")[:-1], start=before + 1):
        words = line.split()
        if len(words) != columns or not all(w.isdigit() and len(w) <= _MOST_DIGITS for w in words):
            raise DataError(
                f"{path}, line {number}: expected {columns} whole numbers parted by blanks, found "
                f"{line[:80]!r}"
            )
        rows.append([int(word) for word in words])
    return np.array(rows, np.int64).reshape(-1, columns)


def _plain(text: UInt8[np.ndarray, " t"], columns: int) -> Int64[np.ndarray, "n c"] | None:
    """Read digits, single blanks and line ends; None where there is anything else."""
    digits = text - np.uint8(ord("0"))  # others wrap around to 10 and more
    ends = np.flatnonzero(digits > 9)
    if not len(ends) or len(ends) % columns:
        return None
    marks = text[ends].reshape(-1, columns)
    if (marks[:, :-1] != ord(" ")).any() or (marks[:, -1] != ord("\n")).any():
        return None
    lengths = np.diff(ends, prepend=-1) - 1
    if lengths.min() < 1 or lengths.max() > _MOST_DIGITS:
        return None
    most = int(lengths.max())
    narrow = np.int32 if most < 10 else np.int64
    values: np.ndarray = digits[ends - 1].astype(narrow)
    for place in range(1, most):
        # a number that is shorter reads what stands before it, and takes nothing from there
        digit = digits[np.maximum(ends - 1 - place, 0)] * (lengths > place)
        values += digit * narrow(10**place)
    return values.reshape(-1, columns).astype(np.int64)
