"""Pictures of stored items, where the source that their keys come from is at hand."""

from functools import cached_property
from pathlib import Path

import numpy as np

from mixbct.data import open_source
from mixbct.data.images import image_of, png_of, thumbnail
from mixbct.data.source import EncodedSource
from mixbct.errors import DataError, ServeError
from mixbct.web.encoders import Row

SIDE = 240
"""Pixels of a picture's longer side."""


class Pictures:
    """Images by key.

    Args:
        path: what `open_source` takes; None: there are none.

    Raises:
        DataError: there is no source, or one of vectors.
    """

    def __init__(self, path: Path | None) -> None:
        self._source = None if path is None else open_source(path)
        if self._source is not None and not len(self._source):
            raise DataError(f"{path} holds no image")

    @cached_property
    def _rows(self) -> dict[str, int]:
        keys = self._source.keys() if self._source else []
        return {key: row for row, key in enumerate(keys)}

    def row(self, key: str) -> Row | None:
        """Return where the image of an item is; None: there is none."""
        number = self._rows.get(key)
        return None if number is None or self._source is None else Row(self._source, number)

    def png(self, key: str) -> bytes:
        """Return a small picture of an item.

        Raises:
            ServeError: there is none.
            BadImageError: it cannot be decoded.
        """
        row = self.row(key)
        if row is None:
            raise ServeError("there is no picture of this key", 404)
        if isinstance(row.source, EncodedSource):
            return thumbnail(row.source.encoded(row.number), key, SIDE)
        return png_of(image_of(row.source.read(np.array([row.number]))[0]))
