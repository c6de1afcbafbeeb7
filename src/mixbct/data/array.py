"""A whole image set in one memory-mapped array as a source.

A folder with

    manifest.json   counts, size, class and group names, digests (`ArrayManifest`)
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

from mixbct.data.source import Images, Rows, Source, digest_rows, read_lines, write_lines
from mixbct.errors import DataError
from mixbct.files import folder_written_whole
from mixbct.reading import open_array, shown
from mixbct.schemas.data import ArrayManifest
from mixbct.schemas.record import read_record


class ArraySource(Source):
    """An image array, open for reading.

    Raises:
        DataError: there is no image array at `path`, or its files do not fit its manifest.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_record(path / "manifest.json", ArrayManifest, DataError, "image array")
        count, size = self.manifest.images, self.manifest.size
        shape = (count, size, size, self.manifest.channels)
        self._images = open_array(path / "images.npy", "images", DataError, ["uint8"], shape=shape)
        labels = self._indices("labels", self.manifest.classes)
        names = self.manifest.groups
        groups = [names[i] for i in self._indices("groups", names)] if names else None
        keys, classes = read_lines(path / "keys.txt", DataError), self.manifest.classes
        if not len(keys) == len(set(keys)) == count or len(set(classes)) != len(classes):
            raise DataError(
                f"the image array {path} is damaged: {count} images, {len(set(keys))} different "
                f"keys of {len(keys)}, {len(set(classes))} different classes of {len(classes)}"
            )
        super().__init__(f"image array {shown(path)}", keys, labels, classes, groups)

    def _indices(self, what: str, names: tuple[str, ...]) -> Int64[np.ndarray, " n"]:
        """Open `labels.npy` or `groups.npy`."""
        path = self.path / f"{what}.npy"
        values = open_array(path, what, DataError, ["int64"], shape=(self.manifest.images,))
        least, most = values.min(), values.max()
        if not 0 <= least <= most < len(names):
            raise DataError(
                f"{path} holds {least} to {most}, for {len(names)} names: it is damaged"
            )
        return np.asarray(values)

    def read(self, rows: Rows) -> Images:
        """Return the images of `rows`, in that order, as a copy."""
        return np.asarray(self._images[rows])

    def digest(self) -> str:
        """Return the digest over keys, classes and pixels that was taken at writing."""
        return self.manifest.content_digest

    def verify(self) -> None:
        """Hold what is stored against the digests that were taken at writing.

        Raises:
            DataError: a pixel, a label, a group or a key is not what was written.
        """
        found = _digests(self._images, self._labels, self._classes, self._keys, self.groups())
        told = {name: getattr(self.manifest, name) for name in found}
        if changed := [name for name in found if told[name] not in (None, found[name])]:
            raise DataError(
                f"the image array {self.path} was changed after it was written: its manifest has "
                f"another {' and '.join(changed)}; make or fetch it again"
            )


def _digests(
    images: Images, labels: Rows, classes: Sequence[str], keys: list[str], groups: list[str]
) -> dict[str, str | None]:
    """Return the manifest's digests, by the names that they have there."""
    names = (classes[label] for label in labels)
    prints = (hashlib.sha256(image.tobytes()).hexdigest() for image in images)
    content = digest_rows(zip(keys, names, prints, strict=True))
    families = ((key, group, "") for key, group in zip(keys, groups, strict=True))
    of_groups = digest_rows(families) if any(groups) else None
    return {"content_digest": content, "groups_digest": of_groups}


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
    if not len(set(keys)) == len(keys) == count or len(groups) not in (0, count):
        raise DataError(
            f"{count} images, {len(keys)} keys ({len(set(keys))} different) and {len(groups)} "
            "groups do not fit each other"
        )
    if not count or labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(f"labels must name {len(classes)} classes, and at least one image one")
    group_names, group_of_row = np.unique(groups, return_inverse=True)
    manifest = ArrayManifest(
        name=name,
        images=count,
        size=height,
        channels=channels,
        classes=tuple(classes),
        groups=tuple(str(group) for group in group_names) if any(groups) else (),
        **_digests(images, labels, classes, keys, groups or [""] * count),
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
