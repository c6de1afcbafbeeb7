"""The index of a record file, text lines `key<TAB>offset`; and a writer of both."""

import contextlib
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Int64

from mixbct.data.recordio import EXACT, IMAGE_HEADER, frame
from mixbct.errors import DataError, RecordError
from mixbct.files import file_written_whole
from mixbct.reading import read_integers

REPAIR = (
    "fetch the files again, leave such records out with --skip-bad, or delete the index (.idx): "
    "it is then rebuilt from the record file"
)


Numbers = Int64[np.ndarray, " n"] | Sequence[int]


def read_index(path: Path, skipped: list[str] | None = None) -> Int64[np.ndarray, "2 n"]:
    """Return the key of each record, ascending, and the byte that it begins at; no two alike.

    Args:
        path: of the `.idx` file.
        skipped: takes a message for what is left out: lines that are not a key and an offset, or
            share one of the two with another line.

    Raises:
        RecordError: the file cannot be read, or holds such a line, and `skipped` is not given.
    """
    try:
        table = read_integers(path, 2, "a key and an offset", RecordError, skipped)
        if not table.size:
            raise RecordError(skipped[0] if skipped else f"{path} is empty")
    except RecordError as error:
        raise RecordError(f"{error}; {REPAIR}") from error
    return in_order(path, table, REPAIR, skipped)


def write_index(path: Path, keys: Numbers, offsets: Numbers) -> None:
    """Write an index file, whole or not at all."""
    with file_written_whole(path) as file:
        np.savetxt(file, np.column_stack([keys, offsets]), "%d", "\t")


def in_order(
    path: Path, table: Int64[np.ndarray, "2 n"], advice: str, skipped: list[str] | None = None
) -> Int64[np.ndarray, "2 m"]:
    """Bring (keys, offsets) into the order of the keys; no two may share a key or an offset.

    Which of those that do is the right one nobody can tell: all of them are left out.

    Raises:
        RecordError: some do, and `skipped` is not given; it ends with `advice`.
    """
    for row, (what, other) in ((1, ("offset", "keys")), (0, ("key", "offsets"))):
        if (table[row, 1:] > table[row, :-1]).all():
            continue
        table = table[:, np.argsort(table[row], kind="stable")]
        same = table[row, 1:] == table[row, :-1]
        for place in np.flatnonzero(same).tolist():
            first, second = table[1 - row, place : place + 2].tolist()
            problem = (
                f"{path}: {what} {table[row, place]} occurs more than once "
                f"({other} {first} and {second})"
            )
            if skipped is None:
                raise RecordError(f"{problem}; {advice}", [str(table[0, place])])
            skipped.append(problem)
        table = table[:, ~(np.append(same, False) | np.append(False, same))]
    return table


class RecordWriter:
    """What `record_writer` yields: takes records one by one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.keys: list[int] = []
        self.offsets: list[int] = []

    def write(self, key: int, labels: Sequence[int | float], image: bytes) -> None:
        """Append an image: one label is written as a number, several as an array.

        Raises:
            DataError: the record is larger than the format can hold, or the class is a number that
                its float32 cannot.
        """
        if image and labels[0] >= EXACT:
            raise DataError(
                f"class number {labels[0]}: record files hold classes as float32, which tells them "
                f"apart up to {EXACT - 1:,}; number the classes from 0"
            )
        record = frame(_image_header(key, labels) + image)
        self.keys.append(key)
        self.offsets.append(self._file.tell())
        self._file.write(record)

    def rewrite_header(self, labels: Sequence[int | float]) -> None:
        """Write the first record, which has as many labels and no image, anew."""
        end = self._file.tell()
        self._file.seek(0)
        self._file.write(frame(_image_header(0, labels)))
        self._file.seek(end)


def _image_header(key: int, labels: Sequence[int | float]) -> bytes:
    if len(labels) == 1:
        return IMAGE_HEADER.pack(0, labels[0], key, 0)
    return IMAGE_HEADER.pack(len(labels), 0.0, key, 0) + struct.pack(f"<{len(labels)}f", *labels)


@contextlib.contextmanager
def record_writer(path: Path) -> Iterator[RecordWriter]:
    """Yield a writer of `path` (`.rec`); on success the index (`.idx`) is written beside it.

    Raises:
        DiskFullError: no space is left; neither file is there then.
    """
    with file_written_whole(path) as file:
        writer = RecordWriter(file)
        yield writer
        # the index first: a record file with a name has one
        write_index(path.with_suffix(".idx"), writer.keys, writer.offsets)
