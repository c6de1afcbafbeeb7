"""A folder of class folders with image files as a source."""

import os
from pathlib import Path

import numpy as np

from mixbct.data.decoding import Decoder
from mixbct.data.images import SUFFIXES
from mixbct.data.source import Images, ListedSource, Rows, digest_rows
from mixbct.errors import BadImageError, DataError
from mixbct.schemas.model import Preprocessing

_EXPECTED = (
    "expected one folder a class with its images in it, such as CLASS/1.jpg "
    f"({', '.join(SUFFIXES)})"
)


class FolderSource(ListedSource):
    """Images in `path/CLASS/FILE`, decoded when they are read.

    Classes are the folders' names and rows go by class, then file, both in the order of their
    code points. Hidden files and files with other suffixes are passed over.

    Args:
        path: the folder that holds the class folders.
        preprocessing: the size and number of channels that images are brought to.
        workers: number of threads that decode, see `Decoder`.

    Raises:
        DataError: the folder is missing, has images outside class folders or folders inside
            them, no class folder, or a class folder without an image.
    """

    def __init__(
        self, path: Path, preprocessing: Preprocessing, workers: int | None = None
    ) -> None:
        self.path = path
        classes = _class_folders(path)
        files = [_image_files(path / name) for name in classes]
        empty = [name for name, found in zip(classes, files, strict=True) if not found]
        if empty:
            raise DataError(
                f"{path}: {len(empty)} of {len(files)} class folders have no image: "
                f"{_some(empty)}; delete them or add images ({', '.join(SUFFIXES)})"
            )
        keys = [
            f"{name}/{file}" for name, found in zip(classes, files, strict=True) for file in found
        ]
        labels = np.repeat(np.arange(len(files)), [len(found) for found in files])
        super().__init__(f"folder {path}", keys, labels, classes)
        self._digest: str | None = None
        self._decoder = Decoder(str(self), preprocessing, workers)

    def read(self, rows: Rows) -> Images:
        """Decode the images of `rows`, in that order.

        Raises:
            BadImageError: it counts and names every image of `rows` that cannot be decoded.
        """
        return self._decoder.read(rows, self.encoded, self._keys.__getitem__)

    def encoded(self, row: int) -> bytes:
        """Return the content of a row's file.

        Raises:
            BadImageError: the file cannot be read.
        """
        key = self._keys[row]
        try:
            return (self.path / key).read_bytes()
        except OSError as error:
            raise BadImageError(f"{key} cannot be read: {error.strerror}", [key]) from error

    def digest(self) -> str:
        """Return the SHA-256 over key, class and size in bytes of every file.

        Hashing every byte would take longer than an epoch on a large set. An edit that leaves
        the size of a file as it was goes unseen.
        """
        if self._digest is None:
            names = (self._classes[label] for label in self._labels)
            self._digest = digest_rows(
                (key, name, _bytes_in(self.path / key))
                for key, name in zip(self._keys, names, strict=True)
            )
        return self._digest


def _bytes_in(path: Path) -> str:
    try:
        return str(path.stat().st_size)
    except OSError:  # a link to nothing; reading it gives the error that names it
        return "missing"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _entries(path: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder and not hidden, by name."""
    try:
        with os.scandir(path) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{path} is not a readable folder: {error.strerror}") from error
    unfit = [e.name for e in found if not e.name.isprintable()]
    if unfit:  # keys are lines of UTF-8 text
        raise DataError(
            f"{path}: names that are not printable UTF-8 text: {unfit[:5]}; rename them"
        )
    return sorted(found, key=lambda entry: entry.name)


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()


def _class_folders(path: Path) -> tuple[str, ...]:
    entries = _entries(path)
    loose = [entry.name for entry in entries if _is_image(entry)]
    if loose:
        raise DataError(
            f"{path}: {len(loose)} images lie outside a class folder ({_some(loose)}); {_EXPECTED}"
        )
    folders = tuple(entry.name for entry in entries if entry.is_dir())
    if not folders:
        raise DataError(f"{path} holds no class folder; {_EXPECTED}")
    return folders


def _image_files(path: Path) -> list[str]:
    entries = _entries(path)
    nested = [entry.name for entry in entries if entry.is_dir()]
    if nested:
        raise DataError(
            f"{path} is a class folder with folders in it ({_some(nested)}); {_EXPECTED}"
        )
    return [entry.name for entry in entries if _is_image(entry)]
