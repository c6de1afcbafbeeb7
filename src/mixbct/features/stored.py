"""Stored vectors in the place of a model: for a model that is gone, or too slow to run again."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mixbct.backbones.model import EmbeddingModel, load_model
from mixbct.data import holds_vectors
from mixbct.data.bank import FeatureBank
from mixbct.data.source import Source
from mixbct.errors import BankError


class StoredVectors:
    """What a model gave for some items, looked up by their keys.

    Attributes:
        contract: of the vectors.
        takes: None: any source of the items will do, since it is asked for keys alone.
        bridge: None: they are compared as they are.
    """

    takes = None
    bridge = None

    def __init__(self, bank: FeatureBank) -> None:
        self.contract = bank.manifest.contract
        self._bank = bank
        self._rows = {key: row for row, key in enumerate(bank.keys())}

    def holds(self, source: Source) -> bool:
        """Return whether there is a vector of every item."""
        return self._rows.keys() >= set(source.keys())

    def embed_source(self, source: Source) -> Float32[np.ndarray, "n d"]:
        """Return the normalised vectors of the items of `source`, in its order.

        Raises:
            BankError: an item has no vector; it names the first of them.
        """
        keys = source.keys()
        missing = [key for key in keys if key not in self._rows]
        if missing:
            raise BankError(
                f"the bank {self._bank.path} has no vector of {len(missing)} of {len(keys)} items "
                f"of {source} ({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}): "
                "name a bank that was made of the same items"
            )
        return self._bank.read(np.array([self._rows[key] for key in keys], dtype=np.int64))


Embedder = EmbeddingModel | StoredVectors
"""Whatever can say where the items of a source lie in one space."""


def open_embedder(path: Path, device: str = "cpu") -> Embedder:
    """Open a model folder, the `model/` folder of a run, or a feature bank in its place.

    Raises:
        ModelError: see `load_model`.
        BankError: the bank is damaged.
    """
    return StoredVectors(FeatureBank(path)) if holds_vectors(path) else load_model(path, device)
