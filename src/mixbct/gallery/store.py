"""The seam between the gallery and what keeps it: snapshots to read, transactions to write.

A store keeps rows, edges, switches and their history, and finds the nearest rows of one contract.
It keeps what it is told: which contracts may meet is the gallery's rule, above it. Two stand behind
this: SQLite with FAISS (`sqlite.py`), PostgreSQL with pgvector.

Every promise below is held by one suite, tests/unit/gallery/test_conformance.py, for every store.
What a store derives from its rows in order to search (an index, a table of mapped rows) can be
thrown away at any time and is built again when it is missing; none of it shows here.

Ids: a positive integer names one version of an item, for good. Replacing an item, and giving it an
earlier vector back, makes a new id; the vector behind an id never changes.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from mixbct.gallery.records import (
    Found,
    Item,
    QueryModel,
    RowBlock,
    Stored,
    Switch,
    Version,
)
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import Contract

Tick = Callable[[int, int], None]
"""Progress: called with (done, in all)."""


@runtime_checkable
class Closes(Protocol):
    """What is closed at its end: a store, a connection."""

    def close(self) -> None:
        """Close it."""
        ...


@contextmanager
def closed_on_error(opened: Closes) -> Iterator[None]:
    """Close what was opened where what is enclosed fails."""
    try:
        yield
    except BaseException:
        opened.close()
        raise


@runtime_checkable
class Snapshot(Protocol):
    """One committed state of a store, which does not change while it is looked at; for one thread.

    Whatever is read is checked: a row or record that is not as it was stored is a `GalleryError`
    that names it.
    """

    def query_model(self) -> QueryModel:
        """Return the model that queries and enrols: that of the last switch."""
        ...

    def switches(self) -> list[Switch]:
        """Return every switch since the last prune, oldest first; never empty."""
        ...

    def edges(self) -> list[Edge]:
        """Return every recorded edge. The records are parsed once, not at every call."""
        ...

    def contracts(self) -> list[Stored]:
        """Return the contracts that have at least one row, by id, with how many they have."""
        ...

    def ids(self, keys: Collection[str]) -> dict[str, int]:
        """Return the id of the present row of each key that has one, in the order of `keys`."""
        ...

    def items(self, ids: Collection[int]) -> dict[int, Item]:
        """Return key, label and contract of present rows, by id.

        Raises:
            GalleryError: an id has no present row.
        """
        ...

    def vectors(self, ids: Collection[int]) -> dict[int, Float32[np.ndarray, " d"]]:
        """Return the stored vectors of present rows, by id; d is that of each row's contract.

        Raises:
            GalleryError: an id has no present row.
        """
        ...

    def blocks(self, contract: Contract, after: int = 0) -> Iterator[RowBlock]:
        """Yield a contract's present rows with an id above `after`, by id, some thousand at a time.

        It streams: no more than a block is held in memory.
        """
        ...

    def versions(self, key: str) -> list[Version]:
        """Return all that an item was since the last prune, oldest first; empty: it never was."""
        ...

    def hits(self) -> dict[str, int]:
        """Return how often each present item was found, of those that were counted at all."""
        ...

    def search(
        self,
        contract: Contract,
        queries: Float32[np.ndarray, "q d"],
        k: int,
        side: LinearMap | None = None,
    ) -> Found:
        """Return the rows of one contract that are nearest to each query, best first.

        Args:
            contract: of the rows; one without rows has no hits.
            queries: unit vectors, in the space in which they meet the rows (behind the bridge's
                side for queries, where there is one).
            k: hits a query, at least 1; with fewer rows than that, as many as there are.
            side: the bridge's side for stored rows, through which they are compared
                (`features.bridged.through`); None: as they are stored.

        Returns:
            Cosines and ids. What the search needs and is not ready is built first.

        Raises:
            FeatureError: `side` sends a row to zero, or takes another dimension.
        """
        ...

    def ready(self, contract: Contract, side: LinearMap | None = None) -> int | None:
        """Return for how many rows a search through `side` is prepared; None: it builds first."""
        ...

    def searched_by(self) -> str:
        """Return how rows are found: "exact" where all are compared, else by which index."""
        ...

    def faults(self, progress: Tick | None = None) -> list[str]:
        """Read every row and record, and return all that is wrong with them, a line each."""
        ...


@runtime_checkable
class Transaction(Snapshot, Protocol):
    """A snapshot that can be changed: all of it is committed at the end, or on an error nothing.

    What it reads is the state with its own changes. One transaction at a time; snapshots go on
    beside it, and see it once it is committed.
    """

    def put(
        self,
        keys: Sequence[str],
        labels: Sequence[str | None],
        contract: Contract,
        vectors: Float32[np.ndarray, "n d"],
        progress: Tick | None = None,
    ) -> list[str]:
        """Add n rows, in place of those of the same keys, which become history.

        Args:
            keys: no key twice.
            labels: class names; None: not known.
            contract: of the vectors; it is recorded where it is new.
            vectors: unit vectors.
            progress: called with (rows stored, n).

        Returns:
            The keys that had a row, in the order of `keys`. Whoever does not want to replace raises
            then, and nothing is stored.
        """
        ...

    def remove(self, keys: Collection[str]) -> list[str]:
        """Take rows away, which become history; return the keys that had one, in their order."""
        ...

    def count_hits(self, counts: Mapping[str, int]) -> None:
        """Add to how often items were found, by key. What is searched does not change."""
        ...

    def forget_hits(self) -> None:
        """Forget how often items were found, all of them."""
        ...

    def add_edge(self, edge: Edge) -> None:
        """Record an edge and both contracts; an edge between the same two becomes history."""
        ...

    def switch(self, switch: Switch) -> None:
        """Record a switch, from now on the present one, and the contract of its model.

        What a search of the model now present needs, and of the model that its `before` leads back
        to, is kept; what was prepared for others may be dropped.

        Args:
            switch: its number is that of the last switch and one.
        """
        ...

    def restore(self, switch: int, keep: Contract) -> list[str]:
        """Give items and edges that were replaced since a switch back what they were before it.

        An item that had a row just before that switch's transaction, and has another one now that
        is not under `keep`, gets the earlier one as a new version: its label, contract and vector,
        to the bit; one that is the same again stays as it is. An edge that was recorded anew by
        that transaction or since, between the same two, is again what it was; one between others
        stays. Items removed since stay removed.

        Returns:
            The keys that were given back, sorted.

        Raises:
            GalleryError: that switch is no longer known.
        """
        ...

    def prune(self) -> int:
        """Forget the history: all but present rows and edges, and the last switch.

        The last switch then has no `before`. Returns how many versions of items went.
        """
        ...


@runtime_checkable
class Store(Protocol):
    """Keeps one gallery; safe for threads, open in any number of processes at once."""

    @property
    def place(self) -> str:
        """Where it is, for people: a folder, or a URL without its password."""
        ...

    def read(self) -> AbstractContextManager[Snapshot]:
        """Enclose reads of the last committed state. It does not wait for a transaction."""
        ...

    def write(self, wait: bool = True) -> AbstractContextManager[Transaction]:
        """Enclose changes that happen whole or, on an error (which goes on), not at all.

        Args:
            wait: for another transaction to end, for as long as the store was opened to wait.

        Raises:
            GalleryError: another one is under way still; the store can only be read.
            DiskFullError: there is no space left; nothing was stored.
        """
        ...

    def prepare(
        self, contract: Contract, side: LinearMap | None = None, progress: Tick | None = None
    ) -> None:
        """Build what a search of a contract's rows through `side` needs, beside all that goes on.

        It survives until a switch that does not need it. Rows that change later are followed.

        Raises:
            FeatureError: `side` sends a row to zero, or takes another dimension.
        """
        ...

    def size(self) -> int:
        """Return how many bytes all of it takes where it is kept."""
        ...

    def close(self) -> None:
        """Close it. What is being read or written in other threads ends first in its own way."""
        ...
