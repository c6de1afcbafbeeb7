"""Open the images, or vectors, that a command works on, for the trainer and the extractor."""

from pathlib import Path

import numpy as np

from mixbct.data import holds_vectors, open_source
from mixbct.data.array import ArraySource
from mixbct.data.source import EncodedSource, Selection, Source, left_out, readable_rows
from mixbct.data.split import open_part, skips_bad
from mixbct.errors import BadImageError, DataError
from mixbct.recipe import Recipe
from mixbct.schemas.model import Input
from mixbct.workflows.progress import Stage, silent


def open_rows(
    path: Path,
    wanted: Input | None,
    split: Path | None = None,
    part: str | None = None,
    skip_bad: bool = False,
) -> tuple[Selection, list[str]]:
    """Open a part of a source (all of it where there is no split), with labels without gaps.

    Args:
        path: a folder of class folders, an image array, a record file or its folder, or a bank.
        wanted: what the model takes: images of a size, or an encoder's vectors; None to look only.
        split: a split folder.
        part: which part of the split; none: `new_train`.
        skip_bad: decode every image first and leave out those that cannot be read, and damaged
            records. What a split left out when it was made stays out without this.

    Returns:
        The rows, and what was left out: keys of images, and a line a damaged record.
    """
    source = open_source(path, wanted, skip_bad or (split is not None and skips_bad(split)))
    return rows_of(source, split, part, skip_bad)


def rows_of(
    source: Source, split: Path | None, part: str | None, skip_bad: bool = False
) -> tuple[Selection, list[str]]:
    """Return a part of a source that is open already; see `open_rows`."""
    if split is None and part is not None:
        raise DataError(f"part {part!r} is one of a split: name the split as well, with --split")
    if split is None:
        rows = Selection(source, np.arange(len(source)))
    else:
        rows = open_part(source, split, part or "new_train")
    if not skip_bad:
        return rows, []
    readable, bad = readable_rows(rows)
    if not len(readable):
        raise DataError(f"none of the {len(rows)} images of {source} can be read")
    return (Selection(rows, readable) if bad else rows), [*left_out(source), *bad]


def open_training_rows(recipe: Recipe, skip_bad: bool = False) -> tuple[Selection, list[str]]:
    """Open what a recipe trains on; see `open_rows`. A bank brings its own kind of input."""
    data = recipe.data
    wanted = None if holds_vectors(data.path) else recipe.model.preprocessing()
    return open_rows(data.path, wanted, data.split, data.part if data.split else None, skip_bad)


def unreadable(source: Source, stage: Stage = silent) -> list[str]:
    """Look at every image and return the keys of those that cannot be read.

    Raises:
        DataError: an image array was changed after it was written.
    """
    if isinstance(source, ArraySource):
        source.verify()
    if not isinstance(source, EncodedSource):
        return []
    with stage("decode") as tick:
        return readable_rows(source, progress=tick)[1]


def look_at_all(source: Source, skip_bad: bool, stage: Stage = silent) -> list[str]:
    """Look at every image before a split is made, and return the keys that it leaves out.

    Raises:
        BadImageError: some cannot be read, and `skip_bad` is not set; it names them.
    """
    bad = unreadable(source, stage)
    if bad and not skip_bad:
        some = ", ".join(bad[:10]) + (" …" if len(bad) > 10 else "")
        raise BadImageError(
            f"{len(bad)} of {len(source)} images of {source} cannot be read: {some}; repair or "
            "delete them, or leave them out here and in all that follows with --skip-bad",
            bad,
        )
    return bad
