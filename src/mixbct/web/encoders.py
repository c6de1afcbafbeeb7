"""The models that embed queries: each loaded once, used by one thread at a time, followed.

What a model folder holds is looked at when the query model is another one than before, for instance
because another server switched it.
"""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from mixbct.backbones.model import EmbeddingModel, read_manifest
from mixbct.backbones.trust import TRUSTED
from mixbct.data.images import Pixels, decode_bytes
from mixbct.data.source import EncodedSource, Source
from mixbct.errors import GalleryError
from mixbct.gallery import Gallery
from mixbct.gallery.records import QueryModel
from mixbct.gallery.rules import led_back
from mixbct.schemas.contract import Contract, Preprocessing
from mixbct.workflows.service import load_query_model

MOST_PIXELS = 32_000_000
"""Of an image that came with a request."""


@dataclass(frozen=True)
class Row:
    """The image of a stored item."""

    source: Source
    number: int


@dataclass
class _Loaded:
    model: EmbeddingModel
    images: int = 0
    seconds: float = 0.0


@dataclass
class Encoders:
    """The query model and the old one.

    Args:
        gallery: whose.
        device: where they compute.
        old: the old model's folder; None: that of the model that a rollback would bring back.
    """

    gallery: Gallery
    device: str = "cpu"
    old: Path | None = None
    _trust: bool = field(default_factory=TRUSTED.get)
    _loaded: dict[str, _Loaded] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def query_model(self) -> QueryModel:
        """Return the model that queries now."""
        return self.gallery.query_model()

    def old_model(self) -> QueryModel:
        """Return the old model.

        Raises:
            GalleryError: there is none.
        """
        if self.old is not None:
            folder, manifest = read_manifest(self.old)
            return QueryModel(manifest.contract, folder)
        with self.gallery.read() as snapshot:
            return led_back(snapshot.switches(), self.gallery.place).model

    def embed(self, model: QueryModel, image: bytes | Row) -> Float32[np.ndarray, "1 d"]:
        """Return the raw vector of one image.

        Raises:
            BadImageError: it cannot be decoded, or is too large.
            GalleryError, ContractError, ModelError: the model cannot run; see `load_query_model`.
        """
        with self._lock:
            loaded = self._ready(model)
            pixels = _pixels(image, loaded.model.preprocessing)
            began = time.perf_counter()
            vector = loaded.model.embed(torch.from_numpy(np.stack([pixels]))).cpu().numpy()
            loaded.images, loaded.seconds = (
                loaded.images + 1,
                loaded.seconds + time.perf_counter() - began,
            )
        return np.asarray(vector)

    def seconds(self, contract: Contract) -> float | None:
        """Return the mean time to embed an image by a model; None: it has embedded none."""
        loaded = self._loaded.get(contract.id)
        return loaded.seconds / loaded.images if loaded and loaded.images else None

    def _ready(self, model: QueryModel) -> _Loaded:
        if model.contract.id not in self._loaded:
            if len(self._loaded) > 1:  # neither the query model nor the old one any more
                self._loaded.clear()
            found = load_query_model(self.gallery, self.device, model, self._trust)
            self._loaded[model.contract.id] = _Loaded(found)
        return self._loaded[model.contract.id]


def _pixels(image: bytes | Row, preprocessing: Preprocessing) -> Pixels:
    if isinstance(image, bytes):
        return decode_bytes(image, preprocessing, "the image", MOST_PIXELS)
    source, number = image.source, image.number
    if isinstance(source, EncodedSource):
        return decode_bytes(source.encoded(number), preprocessing, source.keys()[number])
    pixels = np.asarray(source.read(np.array([number]))[0])
    if pixels.shape[0] != preprocessing.size or pixels.shape[-1] != preprocessing.channels:
        raise GalleryError(
            f"{source} holds images of {pixels.shape[0]} px, the model takes {preprocessing}"
        )
    return pixels
