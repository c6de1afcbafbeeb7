"""Pictures of stored items, where the source that their keys come from is at hand."""

from pathlib import Path

import numpy as np

from mixbct.data import open_source
from mixbct.data.bank import FeatureBank
from mixbct.data.images import Pixels, decode_bytes, image_of, png_of, thumbnail
from mixbct.data.source import EncodedSource
from mixbct.errors import DataError, GalleryError, ServeError
from mixbct.schemas.contract import Preprocessing

SIDE = 240
"""Pixels of a picture's longer side."""


class Pictures:
    """Images by key.

    Args:
        path: what `open_source` takes; None: there are none.

    Raises:
        DataError: there is no source.
    """

    def __init__(self, path: Path | None) -> None:
        self._source = open_source(path) if path else None
        if isinstance(self._source, FeatureBank):
            raise DataError(f"{path} holds vectors: name the images that the keys come from")
        self._rows = {key: i for i, key in enumerate(self._source.keys() if self._source else [])}

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def pixels(self, key: str, preprocessing: Preprocessing) -> Pixels:
        """Return the image of an item as a model takes it.

        Raises:
            BadImageError: it cannot be decoded.
            GalleryError: it is kept in another size.
        """
        if isinstance(self._source, EncodedSource):
            return decode_bytes(self._source.encoded(self._rows[key]), preprocessing, key)
        pixels = self._read(key)
        if pixels.shape[::2] != (preprocessing.size, preprocessing.channels):
            size = f"{pixels.shape[0]} px and {pixels.shape[2]} channels"
            raise GalleryError(f"{self._source}: of {size}, but the model takes {preprocessing}")
        return pixels

    def png(self, key: str) -> bytes:
        """Return a small picture of an item.

        Raises:
            ServeError: there is none.
            BadImageError: it cannot be decoded.
        """
        if key not in self._rows:
            raise ServeError("there is no picture of this key", 404)
        if isinstance(self._source, EncodedSource):
            return thumbnail(self._source.encoded(self._rows[key]), key, SIDE)
        return png_of(image_of(self._read(key)))

    def _read(self, key: str) -> Pixels:
        assert self._source is not None
        return np.asarray(self._source.read(np.array([self._rows[key]]))[0])
