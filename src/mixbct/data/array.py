"""A whole image set in one memory-mapped array as a source.

A folder with

    manifest.json   counts, size, class and group names, digest (`ArrayManifest`)
    images.npy      [N, H, W, C] uint8
    labels.npy      [N] int64, indices into the manifest's classes
    groups.npy      [N] int64, indices into the manifest's groups; not there without groups
    keys.txt        one key a line
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mixbct.data.source import Images, ListedSource, Rows, digest_rows, read_lines, write_lines
from mixbct.errors import DataError
from mixbct.files import folder_written_whole
from mixbct.schemas.data import ArrayManifest
from mixbct.schemas.record import read_record


class ArraySource(ListedSource):
    """An image array, open for reading.

    Raises:
        DataError: there is no image array at `path`, or its files do not fit its manifest.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_record(
            path / "manifest.json", ArrayManifest, DataError, "image array's manifest"
        )
        count, size = self.manifest.images, self.manifest.size
        self._images = self._load(
            "images.npy", np.uint8, (count, size, size, self.manifest.channels)
        )
        labels = self._load("labels.npy", np.int64, (count,))
        self._check_indices("labels.npy", labels, self.manifest.classes)
        groups: list[str] | None = None
        if names := self.manifest.groups:
            places = self._load("groups.npy", np.int64, (count,))
            self._check_indices("groups.npy", places, names)
            groups = [names[i] for i in places]
        try:
            keys = read_lines(path / "keys.txt")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the image array {path} is damaged: keys.txt: {error}") from error
        if len(keys) != count:
            raise DataError(
                f"the image array {path} is damaged: {len(keys)} keys for {count} images"
            )
        super().__init__(
            f"image array {path}", keys, np.asarray(labels), self.manifest.classes, groups
        )

    def _load(self, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> np.ndarray:
        try:
            array: np.ndarray = np.load(self.path / name, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"the image array {self.path} is damaged: {name}: {error}") from error
        if array.dtype != dtype or array.shape != shape:
            raise DataError(
                f"the image array {self.path} is damaged: {name} holds {array.dtype} "
                f"{array.shape}, its manifest says {np.dtype(dtype)} {shape}"
            )
        return array

    def _check_indices(self, name: str, values: np.ndarray, names: tuple[str, ...]) -> None:
        if len(values) and not 0 <= values.min() <= values.max() < len(names):
            raise DataError(
                f"the image array {self.path} is damaged: {name} holds {values.min()} to "
                f"{values.max()}, its manifest has {len(names)} names for them"
            )

    def read(self, rows: Rows) -> Images:
        """Return the images of `rows`, in that order, as a copy."""
        return np.asarray(self._images[rows])

    def digest(self) -> str:
        """Return the digest over keys, classes and pixels that was taken at writing."""
        return self.manifest.content_digest


def write_array(
    path: Path,
    images: Images,
    labels: Int64[np.ndarray, " n"],
    classes: Sequence[str],
    keys: list[str],
    groups: list[str],
    name: str,
    origin: dict[str, str],
) -> ArrayManifest:
    """Write an image array, whole or not at all; one that is there already is replaced.

    Args:
        path: the folder to write.
        images: [N, size, size, channels].
        labels: [N] indices into `classes`.
        classes: the names of the classes.
        keys: N names, no two alike.
        groups: N names of families ('' for none), or an empty list where there are no families.
        name: what the set is called.
        origin: where it came from, for people.

    Raises:
        DataError: the parts do not fit each other.
        DiskFullError: no space is left; what was at `path` before is intact.
    """
    count, height, width, channels = images.shape
    if height != width or channels not in (1, 3):
        raise DataError(f"images are {height} × {width} × {channels}; expected n × n × 1 or 3")
    if len(keys) != count or len(groups) not in (0, count):
        raise DataError(
            f"{count} images, {len(keys)} keys and {len(groups)} groups do not fit each other"
        )
    if not count or labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(f"labels must name {len(classes)} classes, and at least one image one")
    if len(set(keys)) != count:
        raise DataError(f"{count - len(set(keys))} keys of {name!r} occur more than once")
    group_names, group_of_row = np.unique(groups, return_inverse=True)
    manifest = ArrayManifest(
        name=name,
        images=count,
        size=height,
        channels=channels,
        classes=tuple(classes),
        groups=tuple(str(group) for group in group_names) if any(groups) else (),
        content_digest=digest_rows(
            (key, classes[label], hashlib.sha256(image.tobytes()).hexdigest())
            for key, label, image in zip(keys, labels, images, strict=True)
        ),
        origin=origin,
    )
    with folder_written_whole(path) as folder:
        np.save(folder / "images.npy", images)
        np.save(folder / "labels.npy", labels)
        if manifest.groups:
            np.save(folder / "groups.npy", group_of_row.astype(np.int64))
        write_lines(folder / "keys.txt", keys)
        (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    return manifest
