"""Write a record file and its index, whole or not at all."""

import contextlib
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mixbct.data.record_index import write_index
from mixbct.data.recordio import EXACT, IMAGE_HEADER, frame
from mixbct.errors import DataError
from mixbct.files import file_written_whole


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
