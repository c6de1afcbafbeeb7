"""Open the images that a command works on, ready for the trainer and the extractor."""

from pathlib import Path

import numpy as np

from mixbct.data import open_source
from mixbct.data.records import RecordSource
from mixbct.data.source import Selection, readable_rows
from mixbct.data.split import open_part
from mixbct.errors import DataError
from mixbct.schemas import Preprocessing


def open_rows(
    path: Path,
    preprocessing: Preprocessing | None,
    split: Path | None = None,
    part: str = "new_train",
    skip_bad: bool = False,
) -> tuple[Selection, list[str]]:
    """Open a part of a source (all of it where there is no split), with labels without gaps.

    Args:
        path: a folder of class folders, an image array, or a record file or its folder.
        preprocessing: the size and the channels that the model wants; None to look only.
        split: a split folder.
        part: which part of the split.
        skip_bad: decode every image first and leave out those that cannot be read, and damaged
            records.

    Returns:
        The rows, and what was left out: keys of images, and a line a damaged record.
    """
    source = open_source(path, preprocessing, skip_bad)
    skipped = source.skipped if isinstance(source, RecordSource) else []
    if split is None:
        rows = Selection(source, np.arange(len(source)))
    else:
        rows = open_part(source, split, part)
    if not skip_bad:
        return rows, []
    readable, bad = readable_rows(rows)
    if not len(readable):
        raise DataError(f"none of the {len(rows)} images of {path} can be read")
    return (Selection(rows, readable) if bad else rows), [*skipped, *bad]
