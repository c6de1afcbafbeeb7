"""The exact search index of one contract's rows, and its cache file.

The index is held by FAISS (inner product over L2-normalised vectors, so scores are cosines).
Its cache is the ids (int64) and then the vectors (float32), little-endian and nothing else: how
many there are, of which state, and their SHA-256 stand in the store. So a file that was cut,
changed or made elsewhere does not count, and nothing in it is ever parsed.
"""

import hashlib
from pathlib import Path

import faiss
import numpy as np
from jaxtyping import Float32

from mixbct.files import file_written_whole
from mixbct.gallery.records import Stored
from mixbct.gallery.sqlite import Ids
from mixbct.schemas.model import Contract


class ContractIndex:
    """Every row of one contract, ready to be searched.

    `state` names the state of the store that the index shows; '' before it has seen any.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.state = ""
        self.last = 0  # the highest id that was ever added
        self.unsaved = 0  # rows added or dropped since the cache file was written
        self._flat = faiss.IndexFlatIP(contract.dim)
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
        vectors = faiss.rev_swig_ptr(self._flat.get_xb(), len(self) * self.contract.dim)
        parts = [self.ids().astype("<i8", copy=False).data, vectors.astype("<f4", copy=False).data]
        digest = hashlib.sha256()
        with file_written_whole(path) as file:
            for part in parts:
                digest.update(part)
                file.write(part)
        self.unsaved = 0
        return digest.hexdigest()


def load_index(path: Path, stored: Stored) -> ContractIndex | None:
    """Read a cache file; None where it is missing, or is not the one that the store knows of."""
    index, rows = ContractIndex(stored.contract), stored.cached_rows
    shape = rows, index.contract.dim
    try:
        expected = rows * (8 + 4 * index.contract.dim)
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
