"""RecordIO, the container of the field's face sets, read through a memory map.

A file is a run of records; a record is one part, or several (dmlc-core, `recordio.h`):

    uint32   0xced7230a
    uint32   upper 3 bits: 0 a whole record, 1 its first part, 2 a middle one, 3 the last
             lower 29 bits: length of the payload
    payload, then zeros up to the next multiple of 4 bytes

A payload that holds the magic word at a multiple of 4 is cut there and the word left out, so that
the word always begins a part. An image's payload (mxnet, `IRHeader`) is

    uint32 flag, float32 label, uint64 id, uint64 id2
    float32 × flag     the labels, where flag > 0; the first one is the class
    the image's bytes

The id is the record's key; some programs leave it 0 in every record, and then only an index knows
the keys. All numbers are little-endian. The map has no position that moves, so any number of
threads and forked processes may read at once. (A file that is cut while it is mapped ends the
process: no reader of memory maps can prevent that.)
"""

import itertools
import mmap
import re
import struct
from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from mixbct.errors import DataError, RecordError
from mixbct.reading import failing_as, file_size, shown

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
WHOLE, FIRST, MIDDLE, LAST = range(4)
LENGTH_BITS = 29
_LENGTH = (1 << LENGTH_BITS) - 1
PART = struct.Struct("<II")
_LABEL = struct.Struct("<f")
IMAGE_HEADER = struct.Struct("<IfQQ")
_HEAD = struct.Struct("<IIIf")
_HEAD_SIZE = PART.size + IMAGE_HEADER.size
# rows whose heads are looked at together
_CHUNK = 1 << 18
EXACT = 1 << 24
"""From here on not every whole number is a float32."""
_MOST_IDS = 10**18  # that an index can hold


class ImageRecord(NamedTuple):
    """What an image's payload holds: its id, the first of its labels, the image's bytes."""

    number: int
    label: float
    image: bytes


class RecordFile:
    """A record file, open for reading.

    Raises:
        RecordError: the file cannot be read or is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file_size(path, "record file", RecordError)
        said = f"{shown(path)} cannot be read as a record file"
        # ValueError: an empty file
        with failing_as(RecordError, said, OSError, ValueError), path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(self._map)
        self._words = np.frombuffer(self._map, "<u4", self.size // 4)

    def payload(self, offset: int, key: int | None) -> bytes:
        """Return the payload of the record at `offset`; `key` is for errors, where it is known.

        Raises:
            RecordError: no record begins there, or it does not end as it says.
        """
        return MAGIC_BYTES.join(self._map[slice(*part)] for part in self._parts(offset, key))

    def _parts(self, offset: int, key: int | None) -> list[tuple[int, int]]:
        """Return where the payload of each part of a record begins and ends."""
        length, kind = self._part(offset, key)
        if kind not in (WHOLE, FIRST):
            raise self.error(key, offset, f"no record begins there (its part is of kind {kind})")
        start = offset + PART.size
        parts = [(start, start + length)]
        while kind not in (WHOLE, LAST):
            at = start + _padded(length)
            length, kind = self._part(at, key)
            if kind not in (MIDDLE, LAST):
                raise self.error(key, at, f"a part of kind {kind} where a record should go on")
            start = at + PART.size
            parts.append((start, start + length))
        return parts

    def _part(self, offset: int, key: int | None) -> tuple[int, int]:
        """Return (length of the payload, kind) of the part at `offset`."""
        if offset % 4 or not 0 <= offset <= self.size - PART.size:
            what = f"no record can begin there, the file has {self.size} bytes"
            raise self.error(key, offset, what)
        magic, packed = PART.unpack_from(self._map, offset)
        if magic != MAGIC:
            raise self.error(key, offset, f"found {magic:#010x} where {MAGIC:#010x} should be")
        length, kind = packed & _LENGTH, packed >> LENGTH_BITS
        if kind > LAST:
            raise self.error(key, offset, f"a part of kind {kind}; kinds are 0 to {LAST}")
        if offset + PART.size + length > self.size:
            what = f"{length} bytes should follow, but the file ends at {self.size}"
            raise self.error(key, offset, what)
        return length, kind

    def error(self, key: int | None, offset: int, what: str) -> RecordError:
        """Return the error that names file, key and byte offset."""
        keys = [] if key is None else [str(key)]
        named = "".join(f", key {each}" for each in keys)
        return RecordError(f"{self.path}{named}, byte {offset}: {what}", keys)

    def record(self, offset: int, key: int | None) -> ImageRecord:
        """Return id, label and image bytes of the record at `offset`.

        Raises:
            RecordError: see `payload`; or the payload is shorter than its header says.
        """
        payload = self.payload(offset, key)
        if len(payload) < IMAGE_HEADER.size:
            raise self.error(key, offset, f"{len(payload)} bytes are too few for an image's header")
        flag, label, number, _ = IMAGE_HEADER.unpack_from(payload)
        start = IMAGE_HEADER.size + 4 * flag
        if start > len(payload):
            raise self.error(key, offset, f"{flag} labels do not fit into {len(payload)} bytes")
        if flag:
            (label,) = _LABEL.unpack_from(payload, IMAGE_HEADER.size)
        return ImageRecord(number, label, payload[start:])

    def image_record(self, offset: int, key: int) -> ImageRecord:
        """Return what the record at `offset` holds.

        Raises:
            RecordError: see `record`; or there is no image, or its label is no class.
        """
        record = self.record(offset, key)
        if not record.image:
            raise self.error(key, offset, "the record holds no image")
        if not _is_class(record.label):
            what = f"{record.label} is no class number"
            if record.label >= EXACT:
                what += (
                    f": from {EXACT:,} on a float32 does not tell one class from the next; number "
                    "the classes from 0 and pack the images anew"
                )
            raise self.error(key, offset, what)
        return record

    def image(self, offset: int, key: int) -> bytes:
        """Return the image of the record at `offset`; see `image_record` for what is raised.

        Of a record that is whole, with one label, one look at its head tells all: more of them,
        between two images that are decoded, would take as long as the copy of the bytes.
        """
        if not offset % 4 and 0 <= offset <= self.size - _HEAD_SIZE:
            magic, length, labels, label = _HEAD.unpack_from(self._map, offset)
            start, stop = offset + _HEAD_SIZE, offset + PART.size + length
            plain = magic == MAGIC and length <= _LENGTH and not labels
            if plain and start < stop <= self.size and _is_class(label):
                return self._map[start:stop]
        return self.image_record(offset, key).image

    def labels(
        self, offsets: Int64[np.ndarray, " n"], keys: Int64[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " n"], dict[int, str]]:
        """Return the class of every record: one look at each record's head, in file order at best.

        Of a damaged one it is −1, and what is wrong is in the second of the two, by its place.

        A cold file is read once for this wherever its records are smaller than what the disk
        reads ahead. On the way the records' ids are held against their keys. Where the ids do not
        number the records (all are 0, or some are alike), there is nothing to hold.
        """
        values, numbers = np.empty((2, len(offsets)), np.int64)
        for start in range(0, len(offsets), _CHUNK):
            part = slice(start, start + _CHUNK)
            values[part], numbers[part] = self._plain(offsets[part]).T
        faults: dict[int, str] = {}
        for row in np.flatnonzero(values < 0).tolist():  # in parts, or damaged
            try:
                record = self.image_record(int(offsets[row]), int(keys[row]))
                values[row] = int(record.label)
                numbers[row] = record.number % 2**63
            except RecordError as error:
                faults[row] = str(error)
                numbers[row] = 0
        others = np.flatnonzero((numbers != keys) & (numbers != 0))
        if len(others) and len(np.unique(some := numbers[numbers != 0])) == len(some):
            for row in others.tolist():
                what = f"the record there says that it is number {numbers[row]}"
                faults[row] = str(self.error(int(keys[row]), int(offsets[row]), what))
            values[others] = -1
        return values, faults

    def _plain(self, offsets: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n 2"]:
        """Return class and id of each record that is whole and sound; both −1 for the others."""
        values = np.full((len(offsets), 2), -1, np.int64)
        fits = (offsets >= 0) & (offsets % 4 == 0) & (offsets <= self.size - _HEAD_SIZE)
        rows = np.flatnonzero(fits)
        words = offsets[rows] // 4
        packed = self._words[words + 1].astype(np.int64)
        stop = offsets[rows] + PART.size + (packed & _LENGTH)
        sound = (self._words[words] == MAGIC) & (packed >> LENGTH_BITS == WHOLE)
        sound &= stop <= self.size
        count = self._words[words + 2].astype(np.int64)
        sound &= offsets[rows] + _HEAD_SIZE + 4 * count < stop
        rows, words, count = rows[sound], words[sound], count[sound]
        # one label stands in the header, several behind it
        labels = self._words[words + np.where(count > 0, _HEAD_SIZE // 4, 3)].view("<f4")
        with np.errstate(invalid="ignore"):
            fits = (labels >= 0) & (labels < EXACT) & (labels == np.floor(labels))
        values[rows, 0] = np.where(fits, labels, -1)
        low, high = self._words[words + 4].astype(np.int64), self._words[words + 5]
        values[rows, 1] = low | (high & 0x7FFFFFFF).astype(np.int64) << 32
        return values

    def scan(self, skipped: list[str] | None = None) -> Int64[np.ndarray, "2 n"]:
        """Find the records by walking from one to the next.

        Args:
            skipped: takes a message for each damaged place, which is passed over, to the next
                magic word.

        Returns:
            The id of every record and where it begins, in the file's order.

        Raises:
            RecordError: a record is damaged, and `skipped` is not given.
        """
        found = array("q")
        at, sound = 0, True
        while at < self.size:
            try:
                parts = self._parts(at, None)
                if parts[0][1] - parts[0][0] < IMAGE_HEADER.size:
                    number = self.record(at, None).number
                else:
                    _, _, number, _ = IMAGE_HEADER.unpack_from(self._map, parts[0][0])
                if number >= _MOST_IDS:
                    raise self.error(None, at, f"no record has the number {number}")
            except RecordError as error:
                if skipped is None:
                    raise
                if sound:
                    skipped.append(str(error))
                at, sound = self._next_magic(at + 4), False
            else:
                found.extend((number, at))
                at, sound = _padded(parts[-1][1]), True
        return np.array(found, np.int64).reshape(-1, 2).T

    def _next_magic(self, start: int) -> int:
        while (start := self._map.find(MAGIC_BYTES, start)) % 4 and start >= 0:
            start += 1
        return self.size if start < 0 else start


def frame(payload: bytes) -> bytes:
    """Return a payload as a record: cut into parts at aligned magic words, padded.

    Raises:
        DataError: the payload has 2²⁹ bytes or more.
    """
    if len(payload) >> LENGTH_BITS:
        raise DataError(
            f"a record of {len(payload):,} bytes; the format holds less than {1 << LENGTH_BITS:,}"
        )
    words = [found.start() for found in re.finditer(re.escape(MAGIC_BYTES), payload)]
    # where a part ends, and the next one begins behind the word
    cuts = [-4, *(at for at in words if at % 4 == 0), len(payload)]
    parts = [payload[before + 4 : at] for before, at in itertools.pairwise(cuts)]
    kinds = [WHOLE] if len(parts) == 1 else [FIRST, *[MIDDLE] * (len(parts) - 2), LAST]
    return b"".join(
        PART.pack(MAGIC, kind << LENGTH_BITS | len(part)) + part + bytes(-len(part) % 4)
        for kind, part in zip(kinds, parts, strict=True)
    )


def _padded(length: int) -> int:
    return -(-length // 4) * 4


def _is_class(label: float) -> bool:
    return 0 <= label < EXACT and label.is_integer()
