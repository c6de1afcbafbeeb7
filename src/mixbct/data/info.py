"""A summary of a source, for people."""

import io

import numpy as np
from PIL import Image

from mixbct.data.array import ArraySource
from mixbct.data.bank import encoder_of
from mixbct.data.folder import FolderSource
from mixbct.data.foreign_bank import mean_norm, spread_rows
from mixbct.data.source import EncodedSource, Source
from mixbct.errors import BadImageError
from mixbct.schemas.record import Record


class DataInfo(Record):
    """How many images and classes a source has, and how they are spread."""

    images: int
    classes: int
    smallest_class: int
    median_class: float
    largest_class: int
    single_image_classes: tuple[str, ...]
    empty_classes: tuple[str, ...]
    groups: dict[str, int]
    passed_over: dict[str, int]
    data_digest: str
    mean_norm: float | None = None
    """Of the mean of the normalised vectors, where the source holds vectors."""


def info(source: Source) -> DataInfo:
    """Count images a class and a group. Sizes are those of classes that have an image."""
    names = source.classes()
    # a bank without labels has no names of classes
    labels = source.labels() if names else np.zeros(0, np.int64)
    counts = np.bincount(labels, minlength=len(names))
    present = counts[counts > 0] if names else np.zeros(1, np.int64)
    groups, sizes = np.unique([group for group in source.groups() if group], return_counts=True)
    return DataInfo(
        images=len(source),
        classes=int((counts > 0).sum()),
        smallest_class=int(present.min()),
        median_class=float(np.median(present)),
        largest_class=int(present.max()),
        single_image_classes=tuple(names[i] for i in np.flatnonzero(counts == 1)),
        empty_classes=tuple(names[i] for i in np.flatnonzero(counts == 0)),
        groups={str(g): int(s) for g, s in zip(groups, sizes, strict=True)},
        passed_over=source.passed_over if isinstance(source, FolderSource) else {},
        data_digest=source.digest(),
        mean_norm=mean_norm(source.read(spread_rows(len(source)))) if encoder_of(source) else None,
    )


def image_shape(source: Source) -> tuple[int, int] | None:
    """Return the size and the number of channels that suit a source's images; None for vectors.

    An image array has both. Of images in files 64 are looked at, spread over all: the size is the
    largest multiple of 16 that their median image has in both directions, 32 to 224, and they are
    grey where all of them are.
    """
    if isinstance(source, ArraySource):
        return source.manifest.size, source.manifest.channels
    if not isinstance(source, EncodedSource):
        return None
    sides, modes = [], set()
    for row in np.linspace(0, len(source) - 1, min(len(source), 64)):
        try:
            with Image.open(io.BytesIO(source.encoded(int(row)))) as opened:
                sides.append(min(opened.size))
                modes.add(opened.mode)
        except (BadImageError, OSError, ValueError, SyntaxError):
            continue  # whoever trains on it names it
    size = int(np.median(sides or [32])) // 16 * 16
    return min(max(size, 32), 224), 1 if modes and modes <= {"L", "1", "I;16"} else 3
