"""One gallery in a database: its connections, transactions, and how it is made and opened."""

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mixbct.errors import GalleryError
from mixbct.gallery.records import QueryModel, Switch
from mixbct.gallery.sql.snapshot import Facts, Snapshot
from mixbct.gallery.sql.transaction import Transaction
from mixbct.gallery.store import Tick, closed_on_error
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import Contract
from mixbct.schemas.record import now

if TYPE_CHECKING:
    from mixbct.gallery.postgres import Postgres
    from mixbct.gallery.sqlite import Sqlite

SnapshotT = TypeVar("SnapshotT", bound=Snapshot)


class SqlStore:
    """See `store.Store`; a connection for each thread at work. It is made by `create` or `open`.

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
    def create(cls, database: "Sqlite | Postgres", model: QueryModel) -> "SqlStore":
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
    def open(cls, database: "Sqlite | Postgres") -> "SqlStore":
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
                with store.write() as transaction:
                    database.bring_up(transaction.connection)
        return store

    @property
    def place(self) -> str:
        """Where it is, for people."""
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
        self, kind: type[SnapshotT], begin: Literal["read", "write", "make"], wait: bool = True
    ) -> Iterator[SnapshotT]:
        with self.connected() as connection:
            snapshot = kind(self, connection)
            self.database.begin(connection, begin, wait)
            yield snapshot
            connection.commit()

    @contextlib.contextmanager
    def read(self) -> Iterator[Snapshot]:
        """Enclose reads of one state."""
        with self._within(Snapshot, "read") as snapshot:
            yield snapshot
        self.database.after_reading(self)

    def write(self, wait: bool = True) -> contextlib.AbstractContextManager[Transaction]:
        """Enclose changes that happen whole or not at all, one client at a time."""
        return self._within(Transaction, "write", wait)

    def prepare(
        self, contract: Contract, side: LinearMap | None = None, progress: Tick | None = None
    ) -> None:
        """Build what a search through a side needs, beside all that goes on."""
        self.database.prepare(self, contract, side, progress)

    def size(self) -> int:
        """Return how many bytes all of it takes where it is kept."""
        with self.connected() as connection:
            return self.database.size(connection)

    def close(self) -> None:
        """Close it; what others use ends when they are done."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        self.database.close()
