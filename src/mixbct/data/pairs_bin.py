"""Verification sets of the field in one file: lfw.bin, cfp_fp.bin, agedb_30.bin and the like."""

import hashlib
from pathlib import Path

import numpy as np

from mixbct.data.decoding import Decoder
from mixbct.data.pairs import PairSet
from mixbct.data.plain_pickle import read_plain_pickle
from mixbct.data.source import Images, ListedSource, Rows, digest_rows
from mixbct.errors import DataError
from mixbct.schemas.model import Preprocessing


class EncodedImages(ListedSource):
    """Encoded images in memory as a source. Who is in them is not known: one class for all.

    Args:
        name: what the images are and where, for manifests and errors.
        images: JPEG, PNG … files.
        preprocessing: the size and number of channels that images are brought to.
        workers: number of threads that decode, see `Decoder`.
    """

    def __init__(
        self,
        name: str,
        images: list[bytes],
        preprocessing: Preprocessing,
        workers: int | None = None,
    ) -> None:
        count = len(images)
        super().__init__(
            name, list(map(str, range(count))), np.zeros(count, np.int64), ("unknown",)
        )
        self._images = images
        self._decoder = Decoder(name, preprocessing, workers)

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


def read_pairs_bin(path: Path, preprocessing: Preprocessing) -> PairSet:
    """Read a `.bin` verification set: a pickled (list of 2P encoded images, list of P booleans).

    Images 2p and 2p + 1 are pair p. The pickle is read as data; see `plain_pickle`.

    Raises:
        DataError: the file cannot be read, is damaged, or asks for anything but plain data, which
            is named.
    """
    try:
        content = read_plain_pickle(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if not (isinstance(content, tuple | list) and len(content) == 2):
        raise DataError(f"{path}: expected a pair (images, whether the same), found other data")
    images, same = content
    if not isinstance(images, list | tuple) or not all(isinstance(i, bytes) for i in images):
        raise DataError(f"{path}: the first of the two is not a list of encoded images")
    if not isinstance(same, list | tuple) or not all(
        isinstance(value, int) and value in (0, 1) for value in same
    ):
        raise DataError(f"{path}: the second of the two is not a list of booleans")
    if not same or len(images) != 2 * len(same):
        raise DataError(f"{path}: {len(images)} images for {len(same)} pairs; expected two a pair")
    return PairSet(
        EncodedImages(f"verification set {path}", list(images), preprocessing),
        np.arange(len(images)).reshape(-1, 2),
        np.array(same, np.bool_),
        None,
    )
