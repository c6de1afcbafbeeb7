"""Verification sets of the field in one file: lfw.bin, cfp_fp.bin, agedb_30.bin and the like."""

import hashlib
from pathlib import Path

import numpy as np

from mixbct.data.decoding import Decoder
from mixbct.data.pairs import PairSet
from mixbct.data.plain_pickle import read_plain_pickle
from mixbct.data.source import Images, ListedSource, Rows, digest_rows
from mixbct.errors import DataError
from mixbct.reading import read_bytes
from mixbct.schemas.model import Preprocessing


class EncodedImages(ListedSource):
    """Encoded images in memory as a source. Who is in them is not known: one class for all.

    Args:
        name: what the images are and where, for manifests and errors.
        images: JPEG, PNG … files.
        preprocessing: the size and number of channels that images are brought to.
    """

    def __init__(self, name: str, images: list[bytes], preprocessing: Preprocessing) -> None:
        keys = list(map(str, range(len(images))))
        super().__init__(name, keys, np.zeros(len(images), np.int64), ("unknown",))
        self._images = images
        self._decoder = Decoder(name, preprocessing)

    def encoded(self, row: int) -> bytes:
        """Return the bytes of a row's image."""
        return self._images[row]

    def read(self, rows: Rows) -> Images:
        """Decode the images of `rows`, in that order.

        Raises:
            BadImageError: it counts and names every image of `rows` that cannot be decoded.
        """
        return self._decoder.read(rows, self.encoded, str)

    def digest(self) -> str:
        """Return the SHA-256 over number and bytes of every image."""
        return digest_rows(
            (str(row), "", hashlib.sha256(image).hexdigest())
            for row, image in enumerate(self._images)
        )


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
    return PairSet(
        EncodedImages(f"verification set {path}", list(images), preprocessing),
        np.arange(len(images)).reshape(-1, 2),
        np.array(same, np.bool_),
        None,
    )
