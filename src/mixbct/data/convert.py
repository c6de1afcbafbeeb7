"""Folder ⇄ RecordIO: the same images in the other layout."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mixbct.data.bank import encoder_of
from mixbct.data.images import image_of, png_of, suffix_of, to_png
from mixbct.data.record_index import record_writer
from mixbct.data.records import RecordSource, class_names_path
from mixbct.data.source import Progress, Source, unseen, write_lines
from mixbct.errors import BadImageError, DataError
from mixbct.files import folder_written_whole, refuse_existing
from mixbct.schemas.record import Record

_KEPT = (".jpg", ".png")
_NO_NAME = re.compile(r"^\.|^$|[/\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")


class Converted(Record):
    """What a conversion wrote: images, classes that have one, keys of what was left out."""

    images: int
    classes: int
    skipped: tuple[str, ...]


def convert(
    source: Source, out: Path, skip_bad: bool = False, progress: Progress = unseen
) -> Converted:
    """Write a record source as class folders, any other source as a record file.

    - Records to folders: `CLASS/KEY.jpg` or `.png` (keys filled with zeros to one length, so
      that the order within a class stays).
    - To records: `train.rec` and `train.idx`, with a header record (N + 1, C) of key 0, images in
      row order as keys 1 … N, and the names of the classes in `train.classes.txt`.

    JPEG and PNG files are copied byte for byte; others, and arrays, become PNG without loss.

    Args:
        source: what is converted.
        out: the folder to write; it must not be there.
        skip_bad: leave out images that cannot be read (what is copied is not decoded).
        progress: called with (images done, images in all).

    Raises:
        DataError: `out` is there already, or a class has a name that no folder can have.
        BadImageError: an image cannot be read.
    """
    refuse_existing(out, DataError)
    if encoder_of(source) is not None:
        raise DataError(f"{source} holds vectors, not images: there is nothing to convert")
    bad: list[str] = []
    labels, keys = source.labels(), source.keys()

    def images() -> Iterator[tuple[int, bytes]]:
        """Yield (row, bytes) of every image that can be read."""
        for row in range(len(source)):
            try:
                yield row, _encoded(source, row, keys[row])
            except BadImageError as error:
                if not skip_bad:
                    raise
                bad.extend(error.keys)
            progress(row + 1, len(source))

    with folder_written_whole(out) as folder:
        write = _write_folders if isinstance(source, RecordSource) else _write_records
        rows = write(folder, source, images())
        if not rows:
            raise DataError(f"none of the {len(source)} images of {source} can be read")
    return Converted(images=len(rows), classes=len(np.unique(labels[rows])), skipped=tuple(bad))


def _encoded(source: Source, row: int, key: str) -> bytes:
    if (data := source.encoded(row)) is None:
        return png_of(image_of(source.read(np.array([row]))[0]))
    return data if suffix_of(data) in _KEPT else to_png(data, key)


def _write_folders(folder: Path, source: Source, images: Iterator[tuple[int, bytes]]) -> list[int]:
    names, labels, keys = source.classes(), source.labels(), source.keys()
    for name in names:
        # any other character may be in a name: blanks of all kinds, joiners
        if _NO_NAME.search(name) or len(name.encode()) > 255:
            raise DataError(f"the class name {name[:80]!r} cannot be a folder's; rename it")
    width = len(keys[-1])
    rows = []
    for row, data in images:
        path = folder / names[labels[row]] / f"{keys[row].zfill(width)}{suffix_of(data)}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        rows.append(row)
    return rows


def _write_records(folder: Path, source: Source, images: Iterator[tuple[int, bytes]]) -> list[int]:
    labels, rows = source.labels(), []
    with record_writer(folder / "train.rec") as writer:
        # how many images can be read is known at the end
        writer.write(0, [0, 0], b"")
        for row, data in images:
            rows.append(row)
            writer.write(len(rows), [int(labels[row])], data)
        writer.rewrite_header([len(rows) + 1, len(source.classes())])
    write_lines(class_names_path(folder / "train.rec"), list(source.classes()))
    return rows
