"""A folder of class folders with image files as a source."""

import functools
import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np

from mixbct.data.images import SUFFIXES, read_image
from mixbct.data.source import EncodedSource, check_names, digest_rows
from mixbct.errors import DataError
from mixbct.reading import reason, shown
from mixbct.schemas.model import Preprocessing


class FolderSource(EncodedSource):
    """Images in `path/CLASS/FILE`, decoded when they are read.

    Classes are the folders' names and rows go by class, then file, both in the order of their
    code points. Hidden files are passed over, and so are files with other suffixes, of which a
    warning is logged once.

    Args:
        path: the folder that holds the class folders.
        preprocessing: the size and number of channels that images are brought to.

    Attributes:
        passed_over: suffix → number of files that have it and are no image by it.

    Raises:
        DataError: the folder is missing, has images outside class folders or folders inside
            them, no class folder, a class folder without an image, or a name that is no line of
            text.
    """

    def __init__(self, path: Path, preprocessing: Preprocessing) -> None:
        self.path = path
        classes, loose, passed_over = _listing(path)
        if loose:
            raise _unfit(path, f"{len(loose)} images lie outside a class folder ({_some(loose)})")
        if not classes:
            raise _unfit(path, "it holds no class folder")
        keys: list[str] = []
        sizes: dict[str, int] = {}
        for name in classes:
            nested, images, others = _listing(path / name)
            if nested:
                raise _unfit(path / name, f"a class folder with folders in it ({_some(nested)})")
            keys += [f"{name}/{file}" for file in images]
            sizes[name] = len(images)
            passed_over += others
        suffixes = Counter(Path(name).suffix.lower() or "no suffix" for name in passed_over)
        self.passed_over = dict(suffixes.most_common())
        if passed_over:
            named = ", ".join(f"{suffix} {count:,}" for suffix, count in suffixes.most_common(8))
            _say_once(
                f"folder {shown(path)}: {len(passed_over):,} files were passed over that are no "
                f"images by their suffix: {named}"
            )
        if empty := [name for name, size in sizes.items() if not size]:
            problem = f"{len(empty)} of {len(sizes)} class folders have no image: {_some(empty)}"
            raise _unfit(path, f"{problem}; delete them or add images")
        labels = np.repeat(np.arange(len(sizes)), list(sizes.values()))
        name = f"folder {shown(path)}"
        super().__init__(name, keys, labels, tuple(classes), preprocessing=preprocessing)
        self._digest: str | None = None

    def encoded(self, row: int) -> bytes:
        """Return the content of a row's file.

        Raises:
            BadImageError: the file cannot be read.
        """
        return read_image(self.path / self._keys[row], self._keys[row])

    def digest(self) -> str:
        """Return the SHA-256 over key, class and size in bytes of every file.

        Hashing every byte would take longer than an epoch on a large set. An edit that leaves
        the size of a file as it was goes unseen.
        """
        if self._digest is None:
            names = (self._classes[label] for label in self._labels)
            sizes = (_bytes_in(self.path / key) for key in self._keys)
            self._digest = digest_rows(zip(self._keys, names, sizes, strict=True))
        return self._digest


@functools.cache
def _say_once(text: str) -> None:
    """Warn of something once a process, however often the same data are opened."""
    logging.getLogger(__name__).warning(text)


def _bytes_in(path: Path) -> str:
    try:
        return str(path.stat().st_size)
    except OSError:  # a link to nothing; reading it gives the error that names it
        return "missing"


def _unfit(path: Path, problem: str) -> DataError:
    return DataError(
        f"{shown(path)}: {problem}; expected one folder a class with its images in it, such as "
        f"CLASS/1.jpg ({', '.join(SUFFIXES)})"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _listing(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the names of a folder's folders, images and other files, sorted; none is hidden."""
    problems: list[OSError] = []
    found = next(os.walk(path, onerror=problems.append), ("", [], []))
    if problems:
        raise DataError(f"{shown(path)} is not a readable folder: {reason(problems[0])}")
    folders, rest = ([name for name in names if name[0] != "."] for names in found[1:])
    images = sorted(name for name in rest if name.lower().endswith(SUFFIXES))
    check_names((*folders, *images), f"name in {shown(path)}")
    return sorted(folders), images, sorted(set(rest).difference(images))
