"""Search over all contracts of a gallery: one index each, kept in step with the store."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from mixbct.data.bank import normalise
from mixbct.errors import DiskFullError
from mixbct.gallery.index import ContractIndex, load_index, read_header
from mixbct.gallery.store import GalleryStore
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import Contract

# A cache file is written again when more than this part of it is out of date: to write a large
# file for a few rows costs more than to add these again at the next start.
_STALE_PART = 1 / 8


class Searcher:
    """The indexes of a store's contracts, in memory and as cache files in `folder`.

    A file only ever saves time: one that is missing, damaged, or of a state that the store does
    not know is built anew from the store.
    """

    def __init__(self, store: GalleryStore, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._state = ""
        self._indexes: dict[str, ContractIndex] = {}

    def refresh(self) -> list[Contract]:
        """Bring every index to the store's state; return the contracts that have rows.

        Call it, and the search after it, inside one `store.reading()`.
        """
        state = self._store.state()
        if state != self._state:
            contracts = self._store.contracts()
            self._indexes = {c.id: self._refreshed(c, state) for c in contracts}
            self._state = state
            self._delete_unused()
        return [index.contract for index in self._indexes.values()]

    def search(
        self, queries: Float32[np.ndarray, "q d"], k: int, maps: Mapping[str, LinearMap]
    ) -> tuple[Float32[np.ndarray, "q k"], Int64[np.ndarray, "q k"]]:
        """Return the scores and ids of the k best rows over all contracts, best first.

        Args:
            queries: unit vectors of the query model.
            k: hits a query; the number of rows where there are fewer.
            maps: what queries go through to the rows of a contract, by its id, where its space is
                another one.
        """
        found = [
            index.search(normalise(maps[id].apply(queries)) if id in maps else queries, k)
            for id, index in self._indexes.items()
        ]
        if len(found) == 1:
            return found[0]
        scores = np.concatenate(
            [np.empty((len(queries), 0), np.float32), *(s for s, _ in found)], 1
        )
        ids = np.concatenate([np.empty((len(queries), 0), np.int64), *(i for _, i in found)], 1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, 1), np.take_along_axis(ids, best, 1)

    def _refreshed(self, contract: Contract, state: str) -> ContractIndex:
        path = self._path(contract.id)
        index = self._indexes.get(contract.id) or load_index(path, contract)
        removed = None if index is None else self._store.removed_since(index.state)
        if index is None or removed is None:
            index = ContractIndex(contract)
        elif removed:
            index.keep(self._store.ids(contract.id))
        for ids, vectors in self._store.blocks(contract, after=index.last):
            index.add(ids, vectors)
        index.state = state
        if index.unsaved > _STALE_PART * len(index):
            # where the folder cannot be written, the next start takes longer: nothing is lost
            with contextlib.suppress(OSError, DiskFullError):
                index.save(path)
        return index

    def _delete_unused(self) -> None:
        for path in self._folder.glob("index-*.cache"):
            if path not in map(self._path, self._indexes):
                with contextlib.suppress(OSError):
                    path.unlink()

    def _path(self, contract_id: str) -> Path:
        return self._folder / f"index-{contract_id}.cache"

    def cached_rows(self, contract_id: str) -> int | None:
        """Return how many rows a contract's cache file holds; None where it is of no use."""
        try:
            with self._path(contract_id).open("rb") as file:
                header = read_header(file)
        except OSError:
            return None
        known = header and self._store.removed_since(header.state) is not None
        return header.rows if header and known else None
