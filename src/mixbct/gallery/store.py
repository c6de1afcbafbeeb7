"""What a gallery asks of the place that keeps its rows.

The store is the source of truth: a search index is built from it and can be thrown away. An
item's id names one version of it: replacing an item gives it a new id, and an id is never used
twice. So the vector behind an id never changes, and an index that holds some ids is brought up
to date by dropping those that are gone and adding those that came after.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from mixbct.schemas.gate import Edge
from mixbct.schemas.model import Contract

Ids = Int64[np.ndarray, " n"]
Block = tuple[Ids, np.ndarray]
"""Ids [n], ascending, and their vectors float32 [n, d]."""


@dataclass(frozen=True)
class QueryModel:
    """The model that queries are embedded with, and its folder where that is known."""

    contract: Contract
    folder: Path | None


class Item(NamedTuple):
    """What a hit shows of a stored row."""

    key: str
    label: str
    contract_id: str


@runtime_checkable
class GalleryStore(Protocol):
    """Items, contracts, edges and the query model, with transactions.

    Every method but `close` is called inside `reading()` or `writing()`. The rules about which
    contracts may meet are the gallery's; a store keeps what it is told.
    """

    def reading(self) -> AbstractContextManager[None]:
        """Enclose reads that see one unchanging state."""
        ...

    def writing(self) -> AbstractContextManager[None]:
        """Enclose reads and writes that happen whole or, on an error, not at all; one at a time."""
        ...

    def state(self) -> str:
        """Return a name of the present set of items; every `put` gives it a new one, for good."""
        ...

    def removed_since(self, state: str) -> int | None:
        """Return how many rows went since `state`, or None where that is not in the history."""
        ...

    def query_model(self) -> QueryModel:
        """Return the present query model."""
        ...

    def set_query_model(self, model: QueryModel) -> None:
        """Record the query model, and its contract."""
        ...

    def add_edge(self, edge: Edge) -> None:
        """Record an edge, and both contracts, in place of one between the same two."""
        ...

    def edges(self) -> list[Edge]:
        """Return every edge."""
        ...

    def contracts(self) -> list[Contract]:
        """Return the contracts that have at least one row."""
        ...

    def counts(self) -> Mapping[str, int]:
        """Return the number of rows by contract id, without those that have none."""
        ...

    def put(
        self,
        keys: Sequence[str],
        labels: Sequence[str],
        contract: Contract,
        vectors: Float32[np.ndarray, "n d"],
    ) -> int:
        """Add rows in place of those with the same keys; return how many were replaced."""
        ...

    def held(self, keys: Sequence[str]) -> list[str]:
        """Return which of `keys` have a row, in their order."""
        ...

    def items(self, ids: Ids) -> dict[int, Item]:
        """Return the rows of `ids`, without their vectors."""
        ...

    def ids(self, contract_id: str) -> Ids:
        """Return the ids of a contract's rows, ascending."""
        ...

    def blocks(self, contract: Contract, after: int) -> Iterator[Block]:
        """Yield a contract's rows with an id above `after`, ascending, in blocks."""
        ...

    def size(self) -> int:
        """Return the bytes that the store takes."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


def total_size(files: Iterable[Path]) -> int:
    """Return the bytes of those files that are there; another process may delete one any time."""
    size = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            size += file.stat().st_size
    return size
