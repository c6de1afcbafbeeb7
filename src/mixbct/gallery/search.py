"""Exact search over all contracts of a gallery: one index each, kept in step with the store.

An index is held by FAISS (inner product over L2-normalised vectors, so scores are cosines). Its
cache file is the ids (int64) and then the vectors (float32), little-endian and nothing else: how
many there are, of which state, and their SHA-256 stand in the store. So a file that was cut,
changed or made elsewhere does not count, and nothing in it is ever parsed.
"""

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

import faiss
import numpy as np
from jaxtyping import Float32, Int64

from mixbct.errors import MixbctError
from mixbct.features.bridged import through
from mixbct.files import file_written_whole
from mixbct.gallery.database import damaged
from mixbct.gallery.records import Ids
from mixbct.gallery.sqlite import Cached, SqliteStore
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import Contract

# A cache file is written again when more than this part of it is out of date: to write a large
# file for a few rows costs more than to add these again at the next start.
_STALE_PART = 1 / 8


class ContractIndex:
    """Every row of one contract, ready to be searched; mapped, where a bridge has a side for rows.

    `state` names the state of the store that the index shows; '' before it has seen any.
    """

    def __init__(self, contract: Contract, side: LinearMap | None = None) -> None:
        self.contract = contract
        self.side = side
        self.dim = contract.dim if side is None else side.target_dim
        self.state = ""
        self.last = 0  # the highest id that was ever added
        self.unsaved = 0  # rows added or dropped since the cache file was written
        self._flat = faiss.IndexFlatIP(self.dim)
        self._index = faiss.IndexIDMap(self._flat)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def ids(self) -> Ids:
        """Return the ids that the index holds, ascending."""
        return np.asarray(faiss.vector_to_array(self._index.id_map), dtype=np.int64)

    def add(self, ids: Ids, vectors: Float32[np.ndarray, "n d"]) -> None:
        """Add rows, in ascending order of ids, all above those that came before."""
        self._index.add_with_ids(vectors, ids)
        self.last = int(ids[-1])
        self.unsaved += len(ids)

    def keep(self, ids: Ids) -> None:
        """Drop every row whose id is not in `ids`."""
        gone = np.setdiff1d(self.ids(), ids, assume_unique=True)
        self._index.remove_ids(faiss.IDSelectorBatch(gone))
        self.unsaved += len(gone)

    def search(
        self, queries: Float32[np.ndarray, "q d"], k: int
    ) -> tuple[Float32[np.ndarray, "q k"], np.ndarray]:
        """Return the scores and ids int64 [q, k] of the nearest rows, best first."""
        scores, ids = self._index.search(queries, min(k, len(self)))
        return scores, ids

    def save(self, path: Path) -> str:
        """Write the cache file, whole or not at all; return its SHA-256."""
        # a view of FAISS's own memory, not a copy of the vectors
        vectors = faiss.rev_swig_ptr(self._flat.get_xb(), len(self) * self.dim)
        parts = [self.ids().astype("<i8", copy=False).data, vectors.astype("<f4", copy=False).data]
        digest = hashlib.sha256()
        with file_written_whole(path) as file:
            for part in parts:
                digest.update(part)
                file.write(part)
        self.unsaved = 0
        return digest.hexdigest()


def load_index(path: Path, stored: Cached, side: LinearMap | None = None) -> ContractIndex | None:
    """Read a cache file; None where it is missing, or is not the one that the store knows of."""
    index, rows = ContractIndex(stored.contract, side), stored.cached_rows
    shape = rows, index.dim
    try:
        expected = rows * (8 + 4 * index.dim)
        if not rows or not path.is_file() or path.stat().st_size != expected:
            return None
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != stored.cached_sha256:
                return None
            file.seek(0)
            ids = np.fromfile(file, "<i8", rows).astype(np.int64, copy=False)
            vectors = np.memmap(file, "<f4", "r", 8 * rows, shape)
    except OSError:
        return None
    index.add(ids, vectors.astype(np.float32, copy=False))
    index.state, index.unsaved = stored.cached_state, 0
    return index


class Searcher:
    """The indexes of a store's contracts, in memory and as cache files in `folder`.

    A file only ever saves time: one that is missing, damaged, or of a state that the store does
    not know is built anew from the store.
    """

    def __init__(self, store: SqliteStore, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._state = ""
        self._saved = True
        self._indexes: dict[str, ContractIndex] = {}

    def search(
        self, queries: Float32[np.ndarray, "q d"], k: int, bridges: Mapping[str, Bridge]
    ) -> tuple[Float32[np.ndarray, "q k"], Int64[np.ndarray, "q k"]]:
        """Return the scores and ids of the k best rows over all contracts, best first.

        Call it inside `store.reading()`: every index is first brought to the store's state.

        Args:
            queries: unit vectors of the query model.
            k: hits a query; the number of rows where there are fewer.
            bridges: from the query model to the rows of a contract, by its id.
        """
        state = self._store.state()
        sides = {id: bridge.gallery for id, bridge in bridges.items()}
        if state != self._state or any(i.side != sides.get(c) for c, i in self._indexes.items()):
            self._indexes = {
                stored.contract.id: self._refreshed(stored, state, sides.get(stored.contract.id))
                for stored in self._store.contracts()
            }
            self._state, self._saved = state, False
        found = [(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))]
        for id, index in self._indexes.items():
            side = bridges[id].query if id in bridges else None
            found.append(index.search(through(side, queries), k))
        scores, ids = (np.concatenate(parts, 1) for parts in zip(*found, strict=True))
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, 1), np.take_along_axis(ids, best, 1)

    def _refreshed(self, stored: Cached, state: str, side: LinearMap | None) -> ContractIndex:
        contract = stored.contract
        index = self._indexes.get(contract.id)
        if index is None or index.side != side:
            index = load_index(self._path(contract, side), stored, side)
        removed = None if index is None else self._store.removed_since(index.state)
        if index is None or removed is None:
            index = ContractIndex(contract, side)
        elif removed:
            index.keep(self._store.ids(contract.id))
        self._extend(index)
        if len(index) != stored.rows:
            index = ContractIndex(contract, side)
            self._extend(index)
        if len(index) != stored.rows:
            told = f"{stored.rows:,} rows of {contract} are told of, {len(index):,} are there"
            raise damaged(self._store.path, told)
        index.state = state
        return index

    def _extend(self, index: ContractIndex) -> None:
        """Add what the store has and the index has not: here stored rows become index rows."""
        for ids, vectors in self._store.blocks(index.contract, after=index.last):
            index.add(ids, through(index.side, vectors))

    def save(self) -> None:
        """Write the cache files that are far behind their indexes, and delete those of no use.

        Call it outside of `store.reading()`. Where the folder cannot be written, or another process
        is writing, the next start takes longer: nothing is lost.
        """
        if self._saved:
            return
        self._saved = True  # or tried: the next change of the gallery tries again
        with contextlib.suppress(OSError, MixbctError):
            for index in self._indexes.values():
                if index.unsaved > _STALE_PART * len(index):
                    with self._store.writing(wait=False):
                        sha256 = index.save(self._path(index.contract, index.side))
                        self._store.set_cache(index.contract, len(index), index.state, sha256)
            used = {self._path(index.contract, index.side) for index in self._indexes.values()}
            for path in set(self._folder.glob("index-*")) - used:
                path.unlink()

    def cached_rows(self, stored: Cached, edge: Edge | None) -> int | None:
        """Return how many rows a contract's cache file holds; None where it is of no use."""
        known = self._store.removed_since(stored.cached_state) is not None
        path = self._path(stored.contract, edge.bridge.gallery if edge and edge.bridge else None)
        return stored.cached_rows if known and path.is_file() else None

    def _path(self, contract: Contract, side: LinearMap | None) -> Path:
        mapped = f"-{side.digest[:16]}" if side else ""
        return self._folder / f"index-{contract.id}{mapped}.rows"
