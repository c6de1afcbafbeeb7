"""What keeps a gallery: snapshots to read, transactions to write, over a relational database.

A store keeps rows, edges, switches and their history, and finds the nearest rows of one contract.
It keeps what it is told: which contracts may meet is the gallery's rule, above it. Every promise of
`Store`, `Snapshot` and `Transaction` is held by one suite, tests/unit/gallery/test_conformance.py,
over every database.

It is written once. The SQL is what both databases understand, with `%s` for a value and
`= ANY(%s)` for one of many. What truly differs stands behind a dialect, `sqlite/` (one file, FAISS
beside it) or `postgres/` (pgvector, Milvus): it opens, checks and brings up its tables, locks,
takes rows in bulk, and finds the nearest of them. What it derives from rows in order to search (an
index, a table of mapped rows) can be thrown away at any time and is built again when it is missing;
none of it shows here.

Ids: a positive integer names one version of an item, for good. Replacing an item, and giving it an
earlier vector back, makes a new id; the vector behind an id never changes. Every transaction that
changes something has a revision, ascending in the order of their commits, under the one lock of
whoever writes; so are ids. What was present just before a switch is what had a lower id then, and
ended with it or later.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mixbct.errors import GalleryError
from mixbct.gallery.facts import Facts
from mixbct.gallery.records import QueryModel, Switch, Tick
from mixbct.gallery.snapshot import Snapshot
from mixbct.gallery.transaction import Transaction
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import Contract
from mixbct.schemas.record import now

if TYPE_CHECKING:
    from mixbct.gallery.postgres import Postgres
    from mixbct.gallery.sqlite import Sqlite

__all__ = ["Snapshot", "Store", "Tick", "Transaction", "closed_on_error"]
Begin = Literal["read", "write", "make", "upgrade"]
SnapshotT = TypeVar("SnapshotT", bound=Snapshot)


@contextlib.contextmanager
def closed_on_error(opened: Any) -> Iterator[None]:
    """Close what was opened where what is enclosed fails."""
    try:
        yield
    except BaseException:
        opened.close()
        raise


class Store:
    """Keeps one gallery; safe for threads, open in any number of processes at once.

    It is made by `create` or `open`, and has a connection for each thread at work.

    Args:
        database: where it is.
    """

    def __init__(self, database: "Sqlite | Postgres") -> None:
        self.database = database
        self.facts: Facts | None = None
        self.edges: dict[tuple[Any, ...], Edge] = {}
        """Parsed, by what tells them apart."""
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def create(cls, database: "Sqlite | Postgres", model: QueryModel) -> "Store":
        """Make an empty store, also of what an interrupted `create` left behind.

        Raises:
            GalleryError: something is there already, or it may or can not be made.
        """
        store = cls(database)
        with closed_on_error(store):
            database.lay_ground()
            with store._within(Transaction, "make") as transaction:
                database.create_tables(transaction.connection)
                transaction.do("INSERT INTO changes VALUES (0, %s, 1, '')", now())
                transaction.switch(Switch(1, model, now(), None))
        return store

    @classmethod
    def open(cls, database: "Sqlite | Postgres") -> "Store":
        """Open a store; one of an earlier version is brought up to date.

        Raises:
            NoGalleryError: there is none.
            GalleryError: it is unfinished, of a later version, or not all mixbct's.
        """
        store = cls(database)
        with closed_on_error(store):
            with store._within(Snapshot, "make") as look:
                old = database.is_old(look.connection)
            if old:
                with store._within(Transaction, "upgrade") as transaction:
                    database.bring_up(transaction.connection)
        return store

    @property
    def place(self) -> str:
        """Where it is, for people: a folder, or a URL without its password."""
        return self.database.place

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        """Lend a connection; one that failed is not used again."""
        if self._closed:
            raise GalleryError(f"{self.place} was closed; open it again")
        connection: Any = self._idle_one() or self.database.connect()
        try:
            with self.database.named_errors():
                yield connection
        finally:
            with contextlib.suppress(Exception):
                connection.rollback()  # what an error left open
            with self._lock:
                kept = not self._closed and self.database.is_at_rest(connection)
                self._idle += [connection] * kept
            if not kept:
                connection.close()

    def _idle_one(self) -> Any:
        """Return a connection that is there still; the server may have been started again."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            with contextlib.suppress(GalleryError), self.database.named_errors():
                connection.execute("SELECT 1")
                return connection
            connection.close()

    @contextlib.contextmanager
    def _within(
        self, kind: type[SnapshotT], begin: Begin, wait: bool = True
    ) -> Iterator[SnapshotT]:
        with self.connected() as connection:
            snapshot = kind(self, connection)
            self.database.begin(connection, begin, wait)
            yield snapshot
            connection.commit()

    @contextlib.contextmanager
    def read(self) -> Iterator[Snapshot]:
        """Enclose reads of the last committed state. It does not wait for a transaction."""
        with self._within(Snapshot, "read") as snapshot:
            yield snapshot
        self.database.after_reading(self)

    def write(self, wait: bool = True) -> contextlib.AbstractContextManager[Transaction]:
        """Enclose changes that happen whole or, on an error (which goes on), not at all.

        Args:
            wait: for another transaction to end, for as long as the store was opened to wait.

        Raises:
            GalleryError: another one is under way still; the store can only be read.
            DiskFullError: there is no space left; nothing was stored.
        """
        return self._within(Transaction, "write", wait)

    def prepare(
        self, contract: Contract, side: LinearMap | None = None, progress: Tick | None = None
    ) -> None:
        """Build what a search of a contract's rows through `side` needs, beside all that goes on.

        It survives until a switch that does not need it. Rows that change later are followed.

        Raises:
            FeatureError: `side` sends a row to zero, or takes another dimension.
        """
        self.database.prepare(self, contract, side, progress)

    def size(self) -> int:
        """Return how many bytes all of it takes where it is kept."""
        with self.connected() as connection:
            return self.database.size(connection)

    def close(self) -> None:
        """Close it. What is being read or written in other threads ends first in its own way."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        self.database.close()
