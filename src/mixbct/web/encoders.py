"""The models that embed queries: each loaded once, used by one thread at a time, followed.

What a model folder holds is looked at when the query model is another one than before, for instance
because another server switched it.
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
from mixbct.data.images import Pixels
from mixbct.gallery import Gallery
from mixbct.gallery.records import QueryModel
from mixbct.gallery.rules import led_back
from mixbct.schemas.contract import Contract, Preprocessing
from mixbct.workflows.service import load_query_model


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
