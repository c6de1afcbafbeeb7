"""A RecordIO face set (`train.rec`, `train.idx`) as a source.

What opening it found is kept, so that the next opening looks at no record:

    .STEM.rows.npy    int64 [3, n]: key, offset and label of every image
    .STEM.rows.json   the classes' numbers, the array's SHA-256, and what both were made of

They lie beside the record file or, where nothing can be written, in the user's cache. What they
were made of are the sizes and times of the record file and its index; among the times is that of
the last change of any kind, which no program sets back. Whatever does not fit is made anew.
"""

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from mixbct.data.record_index import REPAIR, in_order, read_index, write_index
from mixbct.data.recordio import EXACT, ImageRecord, RecordFile
from mixbct.data.source import EncodedSource
from mixbct.errors import DataError, MixbctError, RecordError
from mixbct.files import file_written_whole, sha256_file, user_cache, write_atomically
from mixbct.reading import open_array, read_lines_of, wrong_line
from mixbct.schemas.data import FileState, RecordRowsManifest
from mixbct.schemas.model import Preprocessing
from mixbct.schemas.record import record_there

SETTLED = 2.0
"""Seconds without a change, after which another change is sure to have another time."""


class RecordRows(NamedTuple):
    """The images of a record file: key, offset and label of each, and the labels' numbers."""

    table: Int64[np.ndarray, "3 n"]
    classes: Int64[np.ndarray, " c"]


class RecordSource(EncodedSource):
    """The images of a record file, decoded when they are read.

    The record with key 0 may be a header: no image, and labels of which the first, N + 1, says
    that the images have the keys 1 to N (what follows them, such as one record a person, is left
    alone). Without a header every record is an image. Rows go by key.

    A class is named by its number, or, where `STEM.classes.txt` lies beside the record file (as
    `mixbct data convert` writes it), by the line with that number, from 0.

    Args:
        path: a `.rec` file, or a folder with one (with `train.rec`, if it has several). Without
            an `.idx` file beside it, the records are found by walking through the file, and
            their keys are the ids in their headers.
        preprocessing: the size and number of channels that images are brought to.
        skip_bad: leave out damaged lines of the index, records that it lacks, and records whose
            frame or label is damaged; `skipped` lists them. (Images that cannot be decoded are
            found by decoding: see `readable_rows`.)

    Raises:
        RecordError: the file, its index, its header or the head of a record is damaged; it names
            file, key and byte offset.
        DataError: there is no record file, or no image in it.
    """

    def __init__(self, path: Path, preprocessing: Preprocessing, *, skip_bad: bool = False) -> None:
        self.path = record_path(path)
        self._file = RecordFile(self.path)
        self.skipped: list[str] = []
        # what tells the record file and its index from what they were before
        state = tuple(map(_state, (self.path, self.path.with_suffix(".idx"))))
        rows = kept_rows(self.path, state)
        if rows is None:
            rows = self._look(skip_bad)
            if not self.skipped and rows.table.size:
                keep_rows(self.path, state, rows)
        self._numbers, self._offsets, labels = rows.table
        # the keys stay numbers until they are asked for
        name, classes = f"record file {self.path}", self._names(rows.classes)
        super().__init__(name, [], labels, classes, preprocessing=preprocessing)
        if not len(self):
            reason = f": {self.skipped[0]}" if self.skipped else ""
            raise DataError(f"{self.path} holds no image{reason}")

    def _look(self, skip_bad: bool) -> RecordRows:
        """Look at the head of every image's record; leave out those that have no class."""
        index = self._index(self.skipped if skip_bad else None)
        keys, offsets = index[:, self._images(index, skip_bad)]
        labels, faults = self._file.labels(offsets, keys)
        if faults and not skip_bad:
            raise RecordError(
                f"{len(faults)} of {len(labels)} records of {self.path} cannot be used:\n  "
                + "\n  ".join(list(faults.values())[:10])
                + f"\n{REPAIR}",
                [str(keys[row]) for row in faults],
            )
        self.skipped += faults.values()
        table = np.stack([keys, offsets, labels])
        if faults:
            table = table[:, labels >= 0]
        # class numbers are below 2²⁴: to mark them takes less time and memory than to sort them
        there = np.bincount(table[2]) > 0
        if not there.all():
            table[2] = (there.cumsum() - 1)[table[2]]
        return RecordRows(table, np.flatnonzero(there))

    def _index(self, skipped: list[str] | None = None) -> Int64[np.ndarray, "2 n"]:
        """Return the keys of all records, and where they begin."""
        path = self.path.with_suffix(".idx")
        if path.exists():
            return read_index(path, skipped)
        return in_order(self.path, self._file.scan(skipped), _NO_NUMBERS, skipped)

    def save_index(self) -> None:
        """Write the index if there is none, as it was rebuilt.

        Raises:
            RecordError: a record is damaged.
        """
        path = self.path.with_suffix(".idx")
        if not path.exists():
            write_index(path, *self._index())

    def _images(self, index: Int64[np.ndarray, "2 n"], skip_bad: bool) -> slice:
        """Return which records of the index are images: those behind the header that it counts."""
        keys = index[0]
        header = self._header(index, skip_bad)
        if header is None:
            return slice(None)
        end = header.label
        if not (1 <= end < 2**31 and end.is_integer()):
            what = f"the header gives {end} as the key behind the last image"
            raise self._file.error(0, int(index[1, 0]), what)
        stop = int(np.searchsorted(keys, int(end)))
        if end > EXACT:  # the number was rounded: the last ones may be records of another kind
            spacing = int(np.spacing(np.float32(end)))
            while stop > 1 and keys[stop - 1] > end - spacing:
                if self._is_image(*index[:, stop - 1]):
                    break
                stop -= 1
            end = max(end - spacing, float(keys[stop - 1]) + 1)
        missing = int(end) - stop
        if missing > 0:
            gaps = np.flatnonzero(keys[1:stop] != np.arange(1, stop))
            key = int(gaps[0]) + 1 if len(gaps) else stop
            problem = (
                f"the index of {self.path} lacks {missing} of the {int(end) - 1} images that its "
                f"header counts; the first is key {key}"
            )
            if not skip_bad:
                raise RecordError(f"{problem}; {REPAIR}", [str(key)])
            self.skipped.append(problem)
        return slice(1, stop)

    def _is_image(self, key: np.int64, offset: np.int64) -> bool:
        try:
            return bool(self._file.record(int(offset), int(key)).image)
        except RecordError:
            return True  # it is named when it is read

    def _header(self, index: Int64[np.ndarray, "2 n"], skip_bad: bool) -> ImageRecord | None:
        """Return the record with key 0 if it is a header."""
        if not index.size or index[0, 0] != 0:
            return None
        try:
            record = self._file.record(int(index[1, 0]), 0)
        except RecordError:
            if not skip_bad:
                raise
            return None
        return None if record.image else record

    def _names(self, numbers: Int64[np.ndarray, " c"]) -> tuple[str, ...]:
        path = class_names_path(self.path)
        if not path.exists():
            return tuple(map(str, numbers.tolist()))
        lines = read_lines_of(path, "list of class names")
        if "" in lines:
            number = lines.index("")
            expected = f"the name of class {number} (write one: each line names a class, from 0)"
            raise DataError(wrong_line(path, number + 1, expected, ""))
        if len(set(lines)) != len(lines) or (len(numbers) and numbers[-1] >= len(lines)):
            raise DataError(
                f"{path} has {len(set(lines))} different names in {len(lines)} lines, for classes "
                f"up to number {max(numbers, default=0)}; correct or delete it"
            )
        return tuple(lines[number] for number in numbers)

    def keys(self) -> list[str]:
        """Return the record key of every row."""
        return list(map(str, self._numbers.tolist()))

    def _key(self, row: int) -> str:
        return str(self._numbers[row])

    def encoded(self, row: int) -> bytes:
        """Return the stored bytes of a row's image.

        Raises:
            RecordError: the record is damaged or holds no image.
        """
        return self._file.image(int(self._offsets[row]), int(self._numbers[row]))

    def digest(self) -> str:
        """Return the SHA-256 over the file's size, and key, offset, class of every image.

        Hashing every byte would take longer than an epoch on a large set. An edit that leaves
        the label and the place of every image as they were goes unseen.
        """
        digest = hashlib.sha256(f"records\t{self._file.size}\n".encode())
        for array in (self._numbers, self._offsets, self._labels):
            digest.update(np.ascontiguousarray(array).data)
        digest.update("\n".join(self._classes).encode())
        return digest.hexdigest()


_NO_NUMBERS = (
    "the ids in the records' headers do not tell them apart, and without an index (.idx) nobody "
    "knows their keys: fetch the index again, or pack the images anew"
)


def record_path(path: Path) -> Path:
    """Return the record file that `path` names or holds.

    Raises:
        DataError: there is none, or several and no `train.rec`.
    """
    if not os.path.isdir(path):  # noqa: PTH112 (which raises where a name is too long)
        return path
    found = sorted(path.glob("*.rec"))
    if len(found) == 1:
        return found[0]
    if path / "train.rec" in found:
        return path / "train.rec"
    raise DataError(
        f"{path} holds {len(found)} record files; expected train.rec, or name one of them: "
        + ", ".join(file.name for file in found[:5])
    )


def class_names_path(records: Path) -> Path:
    """Return where the names of a record file's classes are kept, one a line."""
    return records.with_suffix(".classes.txt")


def kept_rows(records: Path, state: tuple[FileState | None, ...]) -> RecordRows | None:
    """Return what was kept of files in this state, memory-mapped; None: nothing, or not sound."""
    for array, said in _places(records):
        try:
            found = record_there(said, RecordRowsManifest, DataError, "list of rows")
            if found is None or found.made_of != state:
                continue
            table = open_array(array, "rows", DataError, ["int64"], ndim=2)
            if len(table) == 3 and sha256_file(array) == found.sha256:
                return RecordRows(np.asarray(table), np.array(found.classes, np.int64))
        except (MixbctError, OSError):
            continue
    return None


def keep_rows(records: Path, state: tuple[FileState | None, ...], rows: RecordRows) -> None:
    """Keep what was found of files that were in this state before anyone looked at them."""
    newest = max(each.changed for each in state if each is not None)
    if time.time() - newest / 1e9 < SETTLED:
        return
    classes = tuple(rows.classes.tolist())
    for array, said in _places(records):
        # a full disk is no error here: it will do without
        with contextlib.suppress(MixbctError, OSError):
            with file_written_whole(array) as file:
                np.save(file, rows.table)
            manifest = RecordRowsManifest(made_of=state, classes=classes, sha256=sha256_file(array))
            write_atomically(said, manifest.to_json())
            return


def _state(path: Path) -> FileState | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return FileState(size=found.st_size, written=found.st_mtime_ns, changed=found.st_ctime_ns)


def _places(records: Path) -> list[tuple[Path, Path]]:
    """Return the two files that rows may be kept in: beside the records, and apart."""
    whole = hashlib.sha256(os.fsencode(records.absolute())).hexdigest()
    places = records.with_name(f".{records.stem}.rows"), user_cache() / "records" / whole[:32]
    return [(Path(f"{place}.npy"), Path(f"{place}.json")) for place in places]
