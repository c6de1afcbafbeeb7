"""Whole numbers from large text tables, a few hundred million characters in seconds.

The pairs of IJB and the index of a record file are such tables: lines of non-negative whole
numbers, parted by blanks or tabs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Int64, UInt8

from mixbct.errors import DataError, MixbctError
from mixbct.reading import reason, shown, wrong_line

_CHUNK = 2**19  # stays in the cache
_MOST_DIGITS = 18  # that int64 is sure to hold
_POWERS = 10 ** np.arange(9)


def read_integers(
    path: Path,
    columns: int,
    what: str,
    error: type[MixbctError] = DataError,
    skipped: list[str] | None = None,
) -> Int64[np.ndarray, "c n"]:
    """Read lines of `columns` non-negative whole numbers.

    Lines with single blanks or tabs and nothing else are read by vectorised arithmetic on their
    characters; a stretch of half a million characters with anything else in it, line by line.
    Memory is that of the numbers and of a few stretches. A byte order mark, carriage returns,
    blanks at the ends of lines and blank lines at the end of the file are not part of what
    somebody meant.

    Args:
        path: of the table.
        columns: how many numbers a line has.
        what: what they are, for errors ("a key and an offset").
        error: raised where the file cannot be read or a line holds something else; it is named.
        skipped: takes a message for each run of such lines, which are left out then.
    """
    try:
        if path.exists() and not path.is_file():
            raise error(f"{path} is no regular file; expected lines of {what}")
        with path.open("rb") as file:
            lines = 1 + sum(part.count(b"\n") for part in iter(lambda: file.read(_CHUNK), b""))
            # a number takes two characters at least, a digit and what stands behind it
            table = np.empty((columns, min(lines, file.tell() // (2 * columns) + 1)), np.int64)
            filled = 0
            for before, text in _whole_lines(file):
                plain = text.replace(b"\r\n", b"\n") if b"\r" in text else text
                values = _plain(np.frombuffer(plain, np.uint8), columns)
                if values is None:
                    values, bad = _line_by_line(text, before, columns)
                    expected = f"{what} as whole numbers parted by blanks"
                    problems = [wrong_line(path, number, expected, found) for number, found in bad]
                    if problems and skipped is None:
                        raise error(problems[0])
                    if skipped is not None:
                        skipped += problems
                table[:, filled : filled + len(values)] = values.T
                filled += len(values)
    except (OSError, ValueError) as problem:
        raise error(f"{shown(path)} cannot be read: {reason(problem)}") from problem
    return table[:, :filled]


def _whole_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (number of lines before, some whole lines), the last without what is blank there."""
    file.seek(0)
    before, rest = 0, file.read(_CHUNK).removeprefix(b"\xef\xbb\xbf")
    while chunk := file.read(_CHUNK):
        # a line without an end and blank lines wait, but not for ever
        end = rest.rstrip().rfind(b"\n") + 1 or (len(rest) if len(rest) > _CHUNK else 0)
        yield before, rest[:end]
        before += rest.count(b"\n", 0, end)
        rest = rest[end:] + chunk
    if rest.strip():
        yield before, rest.rstrip() + b"\n"


def _line_by_line(
    text: bytes, before: int, columns: int
) -> tuple[Int64[np.ndarray, "n c"], list[tuple[int, str]]]:
    """Read whole lines, the first being `before` + 1; name the first of each run of bad ones."""
    rows: list[list[int]] = []
    bad: list[tuple[int, str]] = []
    sound = True
    for number, line in enumerate(text.removesuffix(b"\n").split(b"\n"), start=before + 1):
        words = line.split()
        if len(words) == columns and all(w.isdigit() and len(w) <= _MOST_DIGITS for w in words):
            rows.append([int(word) for word in words])
            sound = True
        elif sound:
            bad.append((number, line[:90].decode("utf-8", "backslashreplace").strip()))
            sound = False
    return np.array(rows, np.int64).reshape(-1, columns), bad


def _plain(text: UInt8[np.ndarray, " t"], columns: int) -> Int64[np.ndarray, "n c"] | None:
    """Read digits, single blanks and line ends; None where there is anything else."""
    digits = text - np.uint8(ord("0"))  # others wrap around to 10 and more
    ends = np.flatnonzero(digits > 9)
    if not len(ends) or len(ends) % columns:
        return None
    marks = text[ends].reshape(-1, columns)
    between = marks[:, :-1]
    if ((between != ord(" ")) & (between != ord("\t"))).any() or (marks[:, -1] != ord("\n")).any():
        return None
    lengths = np.diff(ends, prepend=-1) - 1
    if lengths.min() < 1 or lengths.max() > _MOST_DIGITS:
        return None
    # at i + 16 the number that the eight characters before i make, whatever they are
    padded = np.zeros(24 + len(text), np.uint8)
    np.multiply(digits, digits <= 9, out=padded[24:])
    pairs = padded[:-1] * np.uint8(10) + padded[1:]
    fours = pairs[:-2].astype(np.uint16) * np.uint16(100) + pairs[2:]
    eights = fours[:-4].astype(np.uint32) * np.uint32(10_000) + fours[4:]
    values = np.zeros(len(ends), np.int64)
    for done in range(0, int(lengths.max()), 8):
        # what stands to the left of a number's first digit is cut off again
        kept = _POWERS[np.clip(lengths - done, 0, 8)]
        values += eights[ends + (16 - done)] % kept * 10**done
    return values.reshape(-1, columns)
