"""Verification sets: images, and pairs of them that show one person or two.

Of two forms: a list of pairs such as LFW's `pairs.txt`, and one file: lfw.bin, cfp_fp.bin,
agedb_30.bin and the like.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from mixbct.data.folder import FolderSource
from mixbct.data.plain_pickle import read_plain_pickle
from mixbct.data.source import EncodedSource, Source, digest_rows
from mixbct.errors import DataError
from mixbct.reading import read_bytes, read_lines_of, wrong_line
from mixbct.schemas.model import Preprocessing


@dataclass(frozen=True)
class PairSet:
    """Pairs over a source.

    Attributes:
        images: what the pairs are made of.
        pairs: [P, 2] rows of `images`.
        same: [P] whether both show one person.
        folds: [P] which fold a pair belongs to, from 0; None where the set does not say.
    """

    images: Source
    pairs: Int64[np.ndarray, "p 2"]
    same: Bool[np.ndarray, " p"]
    folds: Int64[np.ndarray, " p"] | None


def read_pairs_text(path: Path, images: Path, preprocessing: Preprocessing) -> PairSet:
    """Read a list of pairs as LFW's `pairs.txt` has it.

    The first line says how many folds there are and how many pairs n (`10 300`; one number alone
    is n, of one fold). In each fold n lines `name i j` (one person) are followed by n lines
    `name i name j` (two).

    Args:
        path: of the list.
        images: a folder of class folders with `name/name_0001.jpg` (or another image suffix).
        preprocessing: the size and number of channels that images are brought to.

    Raises:
        DataError: the list cannot be read, a line is not as it should be, or an image is missing;
            it names the line.
    """
    lines = read_lines_of(path, "list of pairs")
    folds, count = _header(path, lines)
    source = FolderSource(images, preprocessing)
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(source.keys()):
        rows.setdefault(key.rpartition(".")[0], []).append(row)

    def row_of(name: str, number: str, line: int) -> int:
        found = rows.get(f"{name}/{name}_{number.zfill(4)}", [])
        if len(found) != 1:
            keys = ", ".join(source.keys()[row] for row in found) or "none"
            expected = f"one image {number} of {name} in {images}"
            raise DataError(f"{path}, line {line}: expected {expected}, found {keys}")
        return found[0]

    pairs = np.empty((len(lines) - 1, 2), np.int64)
    genuine = np.arange(len(pairs)) // count % 2 == 0
    for place, line in enumerate(lines[1:]):
        # a name may hold blanks of other kinds, or, between tabs, any
        words = [w for w in map(str.strip, line.split("\t" if "\t" in line else " ")) if w]
        if len(words) != (3 if genuine[place] else 4):
            form = "`name i j`" if genuine[place] else "`name i name j`"
            raise DataError(wrong_line(path, place + 2, form, line))
        other = words[0 if genuine[place] else 2]
        pairs[place, 0] = row_of(words[0], words[1], place + 2)
        pairs[place, 1] = row_of(other, words[-1], place + 2)
    return PairSet(source, pairs, genuine, np.repeat(np.arange(folds), 2 * count))


def _header(path: Path, lines: list[str]) -> tuple[int, int]:
    words = lines[0].split() if lines else []
    if len(words) not in (1, 2) or not all(w.isdecimal() and 1 <= len(w) <= 9 for w in words):
        expected = "the numbers of folds and of pairs, as `10 300`"
        raise DataError(wrong_line(path, 1, expected, " ".join(words)))
    folds, count = (1, *map(int, words))[-2:]
    if not count or len(lines) - 1 != 2 * folds * count:
        raise DataError(
            f"{path}: {len(lines) - 1} lines of pairs; line 1 says {folds} × 2 × {count}"
        )
    return folds, count


class EncodedImages(EncodedSource):
    """Encoded images in memory as a source. Who is in them is not known: one class for all.

    Args:
        name: what the images are and where, for manifests and errors.
        images: JPEG, PNG … files.
        preprocessing: the size and number of channels that images are brought to.
    """

    def __init__(self, name: str, images: list[bytes], preprocessing: Preprocessing) -> None:
        keys = list(map(str, range(len(images))))
        labels = np.zeros(len(images), np.int64)
        super().__init__(name, keys, labels, ("unknown",), preprocessing=preprocessing)
        self._images = images

    def encoded(self, row: int) -> bytes:
        """Return the bytes of a row's image."""
        return self._images[row]

    def digest(self) -> str:
        """Return the SHA-256 over number and bytes of every image."""
        prints = (hashlib.sha256(image).hexdigest() for image in self._images)
        return digest_rows((str(row), "", one) for row, one in enumerate(prints))


_REMEDY = (
    ". Where you have images (encoded, two a pair) and same in Python, write it as "
    "`pickle.dump(([bytes(i) for i in images], [bool(s) for s in same]), file)`"
)


def _list_of(kind: type, value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, kind) for item in value)


def read_pairs_bin(path: Path, preprocessing: Preprocessing) -> PairSet:
    """Read a `.bin` verification set: a pickled (list of 2P encoded images, list of P booleans).

    Images 2p and 2p + 1 are pair p. The pickle is read as data; see `plain_pickle`.

    Raises:
        DataError: the file cannot be read, is damaged, or asks for anything but plain data, which
            is named.
    """
    data = read_bytes(path, "verification set", DataError)
    if not data:
        raise DataError(f"{path} is empty; expected a verification set, fetch it again")
    try:
        content = read_plain_pickle(data)
    except DataError as error:
        raise DataError(f"{path}: {error}{_REMEDY}") from error
    problem, images, same = "", (), ()
    if not (isinstance(content, tuple | list) and len(content) == 2):
        problem = "expected a pair (images, whether the same), found other data"
    elif not _list_of(bytes, images := content[0]):
        problem = "the first of the two is not a list of encoded images"
    elif not _list_of(int, same := content[1]) or not set(same) <= {0, 1}:
        problem = "the second of the two is not a list of booleans"
    elif not same or len(images) != 2 * len(same):
        problem = f"{len(images)} images for {len(same)} pairs; expected two a pair"
    if problem:
        raise DataError(f"{path}: {problem}{_REMEDY}")
    source = EncodedImages(f"verification set {path}", list(images), preprocessing)
    return PairSet(source, np.arange(len(images)).reshape(-1, 2), np.array(same, np.bool_), None)
