"""A summary of a source, for people."""

import numpy as np

from mixbct.data.folder import FolderSource
from mixbct.data.source import Source
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


def info(source: Source) -> DataInfo:
    """Count images a class and a group. Sizes are those of classes that have an image."""
    names = source.classes()
    counts = np.bincount(source.labels(), minlength=len(names))
    present = counts[counts > 0]
    groups, sizes = np.unique([group for group in source.groups() if group], return_counts=True)
    return DataInfo(
        images=len(source),
        classes=len(present),
        smallest_class=int(present.min()),
        median_class=float(np.median(present)),
        largest_class=int(present.max()),
        single_image_classes=tuple(names[i] for i in np.flatnonzero(counts == 1)),
        empty_classes=tuple(names[i] for i in np.flatnonzero(counts == 0)),
        groups={str(g): int(s) for g, s in zip(groups, sizes, strict=True)},
        passed_over=source.passed_over if isinstance(source, FolderSource) else {},
        data_digest=source.digest(),
    )
