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

All numbers are little-endian. The map has no position that moves, so any number of threads and
forked processes may read at once. (A file that is cut while it is mapped ends the process: no
reader of memory maps can prevent that.)
"""

import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from mixbct.errors import RecordError

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
WHOLE, FIRST, MIDDLE, LAST = range(4)
LENGTH_BITS = 29
_LENGTH = (1 << LENGTH_BITS) - 1
PART = struct.Struct("<II")
_LABEL = struct.Struct("<f")
IMAGE_HEADER = struct.Struct("<IfQQ")
_HEAD_SIZE = PART.size + IMAGE_HEADER.size
# rows whose heads are looked at together
_CHUNK = 1 << 18


class ImageRecord(NamedTuple):
    """What an image's payload holds: the first label, how many there are, the image's bytes."""

    label: float
    labels: int
    image: bytes


class Labels(NamedTuple):
    """The classes of many records.

    Attributes:
        values: [n]; −1 where the record is damaged.
        faults: place among the records that were asked for → what is wrong with the record.
    """

    values: Int64[np.ndarray, " n"]
    faults: dict[int, str]


class RecordFile:
    """A record file, open for reading.

    Raises:
        RecordError: the file cannot be read or is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise RecordError(f"{path} cannot be read as a record file: {error}", []) from error
        self.size = len(self._map)
        self._words = np.frombuffer(self._map, "<u4", self.size // 4)

    def payload(self, offset: int, key: int) -> bytes:
        """Return the payload of the record at `offset`; `key` is for errors.

        Raises:
            RecordError: no record begins there, or it does not end as it says.
        """
        parts = self._parts(offset, key)
        if len(parts) == 1:
            return self._map[slice(*parts[0])]
        return MAGIC_BYTES.join(self._map[slice(*part)] for part in parts)

    def _parts(self, offset: int, key: int) -> list[tuple[int, int]]:
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

    def _part(self, offset: int, key: int) -> tuple[int, int]:
        """Return (length of the payload, kind) of the part at `offset`."""
        if offset % 4 or not 0 <= offset <= self.size - PART.size:
            raise self.error(
                key, offset, f"no record can begin there, the file has {self.size} bytes"
            )
        magic, packed = PART.unpack_from(self._map, offset)
        if magic != MAGIC:
            raise self.error(key, offset, f"found {magic:#010x} where {MAGIC:#010x} should be")
        length, kind = packed & _LENGTH, packed >> LENGTH_BITS
        if kind > LAST:
            raise self.error(key, offset, f"a part of kind {kind}; kinds are 0 to {LAST}")
        if offset + PART.size + length > self.size:
            raise self.error(
                key, offset, f"{length} bytes should follow, but the file ends at {self.size}"
            )
        return length, kind

    def error(self, key: int, offset: int, what: str) -> RecordError:
        """Return the error that names file, key and byte offset."""
        return RecordError(f"{self.path}, key {key}, byte {offset}: {what}", [str(key)])

    def record(self, offset: int, key: int) -> ImageRecord:
        """Return label and image bytes of the record at `offset`.

        Raises:
            RecordError: see `payload`; or the payload is shorter than its header says.
        """
        payload = self.payload(offset, key)
        if len(payload) < IMAGE_HEADER.size:
            raise self.error(key, offset, f"{len(payload)} bytes are too few for an image's header")
        flag, label, _, _ = IMAGE_HEADER.unpack_from(payload)
        start = IMAGE_HEADER.size + 4 * flag
        if start > len(payload):
            raise self.error(key, offset, f"{flag} labels do not fit into {len(payload)} bytes")
        if flag:
            (label,) = _LABEL.unpack_from(payload, IMAGE_HEADER.size)
        return ImageRecord(label, flag or 1, payload[start:])

    def image_record(self, offset: int, key: int) -> ImageRecord:
        """Return label and image bytes of the record at `offset`.

        Raises:
            RecordError: see `record`; or there is no image, or its label is no class.
        """
        record = self.record(offset, key)
        if not record.image:
            raise self.error(key, offset, "the record holds no image")
        if not is_class(record.label):
            raise self.error(key, offset, f"{record.label} is no class number")
        return record

    def labels(self, offsets: Int64[np.ndarray, " n"], keys: Int64[np.ndarray, " n"]) -> Labels:
        """Return the class of every record: one look at each record's head, in file order at best.

        A cold file is read once for this wherever its records are smaller than what the disk
        reads ahead.
        """
        values = np.empty(len(offsets), np.int64)
        for start in range(0, len(offsets), _CHUNK):
            part = slice(start, start + _CHUNK)
            values[part] = self._plain(offsets[part])[:, 0]
        faults: dict[int, str] = {}
        for row in np.flatnonzero(values < 0).tolist():  # in parts, or damaged
            try:
                record = self.image_record(int(offsets[row]), int(keys[row]))
                values[row] = int(record.label)
            except RecordError as error:
                faults[row] = str(error)
        return Labels(values, faults)

    def images(
        self, offsets: Int64[np.ndarray, " n"], keys: Int64[np.ndarray, " n"]
    ) -> Callable[[int], bytes]:
        """Return what gives the image bytes of the i-th of these records.

        The heads are looked at together, since a look at each between two decoded images costs
        more than the copy of its bytes. What it returns raises RecordError, see `image_record`.
        """
        plain = self._plain(offsets).tolist()

        def image(place: int) -> bytes:
            label, start, stop = plain[place]
            if label < 0:  # in parts, or damaged
                return self.image_record(int(offsets[place]), int(keys[place])).image
            return self._map[start:stop]

        return image

    def _plain(self, offsets: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n 3"]:
        """Return the class of each record that is whole and sound, and where its image lies.

        Columns are class, first byte and the one behind the last; all −1 for the other records.
        """
        values = np.full((len(offsets), 3), -1, np.int64)
        fits = (offsets >= 0) & (offsets % 4 == 0) & (offsets <= self.size - _HEAD_SIZE)
        rows = np.flatnonzero(fits)
        words = offsets[rows] // 4
        packed = self._words[words + 1].astype(np.int64)
        stop = offsets[rows] + PART.size + (packed & _LENGTH)
        sound = (self._words[words] == MAGIC) & (packed >> LENGTH_BITS == WHOLE)
        sound &= stop <= self.size
        count = self._words[words + 2].astype(np.int64)
        start = offsets[rows] + _HEAD_SIZE + 4 * count
        sound &= start < stop
        rows, words, count = rows[sound], words[sound], count[sound]
        # one label stands in the header, several behind it
        at = words + np.where(count > 0, _HEAD_SIZE // 4, 3)
        values[rows, 0] = _class_of(self._words[at].view("<f4").astype(np.float32))
        values[rows, 1], values[rows, 2] = start[sound], stop[sound]
        return values

    def scan(self, skip_bad: bool = False) -> tuple[Int64[np.ndarray, " n"], list[str]]:
        """Find where records begin by walking from one to the next.

        Args:
            skip_bad: pass over damaged places, to the next magic word.

        Returns:
            The offsets, ascending, and what was passed over, a line each.

        Raises:
            RecordError: a record is damaged, and `skip_bad` is not given. Its key is the number
                of records before it.
        """
        offsets: list[int] = []
        problems: list[str] = []
        at = 0
        while at < self.size:
            try:
                end = _padded(self._parts(at, len(offsets))[-1][1])
            except RecordError as error:
                if not skip_bad:
                    raise
                problems.append(str(error))
                at = self._next_magic(at + 4)
            else:
                offsets.append(at)
                at = end
        return np.array(offsets, np.int64), problems

    def _next_magic(self, start: int) -> int:
        while (start := self._map.find(MAGIC_BYTES, start)) % 4 and start >= 0:
            start += 1
        return self.size if start < 0 else start


def _padded(length: int) -> int:
    return -(-length // 4) * 4


def is_class(label: float) -> bool:
    """Return whether a label is a class number: whole, not negative, below 2³¹."""
    return 0 <= label < 2**31 and label.is_integer()


def _class_of(labels: Float32[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Return labels as class numbers, −1 for those that `is_class` refuses."""
    with np.errstate(invalid="ignore"):
        fits = (labels >= 0) & (labels < 2**31) & (labels == np.floor(labels))
    return np.where(fits, labels, -1).astype(np.int64)
