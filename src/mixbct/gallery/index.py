"""The exact search index of one contract's rows, and its cache file.

The index is held by FAISS (inner product over L2-normalised vectors, so scores are cosines).
Its cache is one line of JSON, then the ids (int64) and the vectors (float32), little-endian:
reading it runs no one else's code, and a file that is cut short or altered does not count.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import faiss
import numpy as np
from jaxtyping import Float32
from pydantic import ValidationError

from mixbct.files import file_written_whole
from mixbct.gallery.store import Block, Ids
from mixbct.schemas.model import Contract
from mixbct.schemas.record import Record

_BLOCK = 65536
_LONGEST_HEADER = 4096


class IndexHeader(Record):
    """The first line of a cache file."""

    kind: Literal["mixbct-index-1"] = "mixbct-index-1"
    contract_id: str
    dim: int
    rows: int
    state: str
    crc32: int


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

    def _content(self) -> Iterator[memoryview]:
        """Yield what follows the header, without a copy of the vectors."""
        yield self.ids().astype("<i8", copy=False).data
        if len(self):
            count = len(self) * self.contract.dim
            yield faiss.rev_swig_ptr(self._flat.get_xb(), count).astype("<f4", copy=False).data

    def save(self, path: Path) -> None:
        """Write the cache file, whole or not at all."""
        checksum = 0
        for part in self._content():
            checksum = zlib.crc32(part, checksum)
        header = IndexHeader(
            contract_id=self.contract.id,
            dim=self.contract.dim,
            rows=len(self),
            state=self.state,
            crc32=checksum,
        )
        with file_written_whole(path) as file:
            file.write(header.model_dump_json().encode() + b"\n")
            for part in self._content():
                file.write(part)
        self.unsaved = 0


def read_header(file: BinaryIO) -> IndexHeader | None:
    """Read the first line of a cache file; None where it is not one."""
    try:
        return IndexHeader.model_validate_json(file.readline(_LONGEST_HEADER))
    except ValidationError:
        return None


def load_index(path: Path, contract: Contract) -> ContractIndex | None:
    """Read a cache file; None where it is missing, damaged, or another contract's."""
    try:
        with path.open("rb") as file:
            header = read_header(file)
            if header is None or (header.contract_id, header.dim) != (contract.id, contract.dim):
                return None
            expected = header.rows * (8 + 4 * header.dim)
            if path.stat().st_size - file.tell() != expected:
                return None
            return _read_content(file, header, contract)
    except OSError:
        return None


def _read_content(file: BinaryIO, header: IndexHeader, contract: Contract) -> ContractIndex | None:
    ids = np.frombuffer(file.read(8 * header.rows), dtype="<i8").astype(np.int64, copy=False)
    checksum = zlib.crc32(ids.data)
    index = ContractIndex(contract)
    for block, vectors in _blocks(file, ids, contract.dim):
        checksum = zlib.crc32(vectors.data, checksum)
        index.add(block, vectors)
    if checksum != header.crc32:
        return None
    index.state, index.unsaved = header.state, 0
    return index


def _blocks(file: BinaryIO, ids: Ids, dim: int) -> Iterator[Block]:
    for start in range(0, len(ids), _BLOCK):
        block = ids[start : start + _BLOCK]
        content = file.read(4 * dim * len(block))
        vectors = np.frombuffer(content, dtype="<f4").reshape(len(block), dim)
        yield block, vectors.astype(np.float32, copy=False)
