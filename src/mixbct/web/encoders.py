"""What is at hand for every request: the models that embed queries, and pictures of stored items.

A model is loaded once, used by one thread at a time, and followed. What its folder holds is looked
at when the query model is another one than before, for instance because another server switched it.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from mixbct.backbones.model import EmbeddingModel, read_manifest
from mixbct.backbones.trust import TRUSTED
from mixbct.data import open_source
from mixbct.data.bank import FeatureBank
from mixbct.data.images import Pixels, decode_bytes, image_of, png_of, thumbnail
from mixbct.data.source import EncodedSource
from mixbct.errors import DataError, GalleryError, ServeError
from mixbct.gallery import Gallery
from mixbct.gallery.records import QueryModel
from mixbct.gallery.rules import led_back
from mixbct.schemas.contract import Contract, Preprocessing
from mixbct.workflows.service import load_query_model

SIDE = 240
"""Pixels of a picture's longer side."""


class Encoders:
    """The query model and the old one.

    Args:
        gallery: whose.
        device: where they compute.
        old: the old model's folder; None: that of the model that a rollback would bring back.
    """

    def __init__(self, gallery: Gallery, device: str = "cpu", old: Path | None = None) -> None:
        self._gallery, self._device, self._old = gallery, device, old
        self._trust = TRUSTED.get()
        self._loaded: dict[str, EmbeddingModel] = {}
        self._taken: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def old_model(self) -> QueryModel:
        """Return the old model.

        Raises:
            GalleryError: there is none.
        """
        if self._old is not None:
            folder, manifest = read_manifest(self._old)
            return QueryModel(manifest.contract, folder)
        with self._gallery.read() as snapshot:
            return led_back(snapshot.switches(), self._gallery.place).model

    def embed(
        self, model: QueryModel, image: Callable[[Preprocessing], Pixels]
    ) -> Float32[np.ndarray, "1 d"]:
        """Return the raw vector of one image.

        Args:
            model: by which.
            image: gives the image as the model takes it; one is decoded at a time.

        Raises:
            GalleryError, ContractError, ModelError: it cannot run; see `load_query_model`.
        """
        id = model.contract.id
        with self._lock:
            if id not in self._loaded:
                if len(self._loaded) > 1:  # one of them is neither the query model nor the old one
                    self._loaded.clear()
                self._loaded[id] = load_query_model(self._gallery, self._device, model, self._trust)
            loaded = self._loaded[id]
            pixels = torch.from_numpy(np.stack([image(loaded.preprocessing)]))
            began = time.perf_counter()
            vector = np.asarray(loaded.embed(pixels).cpu().numpy())
            images, seconds = self._taken.get(id, (0, 0.0))
            self._taken[id] = [images + 1, seconds + time.perf_counter() - began]
        return vector

    def seconds(self, contract: Contract) -> float | None:
        """Return the mean time to embed an image by a model; None: it has embedded none."""
        images, seconds = self._taken.get(contract.id, (0, 0.0))
        return seconds / images if images else None


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
