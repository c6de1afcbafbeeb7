"""A gallery in PostgreSQL: its connections, and what is made beside all that goes on."""

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mixbct.data.postgresql import Server
from mixbct.errors import FeatureError, GalleryError
from mixbct.gallery.milvus import Milvus
from mixbct.gallery.postgres import tables
from mixbct.gallery.postgres.derive import derive, forget, reindex
from mixbct.gallery.postgres.search import EXACT, HNSW, recall
from mixbct.gallery.postgres.snapshot import Facts, Snapshot
from mixbct.gallery.postgres.transaction import Transaction
from mixbct.gallery.records import QueryModel, Stored, Switch
from mixbct.gallery.store import Tick, closed_on_error
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import Contract
from mixbct.schemas.record import now

if TYPE_CHECKING:
    from psycopg import Connection


class PostgresStore:
    """A gallery in a PostgreSQL database (`store.Store`); a connection for each thread at work.

    Args:
        url: of the database (`data/postgresql.py`).
        timeout: seconds to wait for another client that is writing.
    """

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        self._server = Server(url)
        self._timeout = timeout
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        self.facts: Facts | None = None
        self.edges: dict[tuple[Any, ...], Edge] = {}
        self._milvus: tuple[str, Milvus | None] | None = None

    @classmethod
    def create(cls, url: str, model: QueryModel) -> "PostgresStore":
        """Make the tables of an empty gallery.

        Raises:
            GalleryError: something is there already, or it may or can not be made.
        """
        store = cls(url)
        with store._server.named_errors(), store._server.connect() as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        with closed_on_error(store), store._connected() as connection, connection.transaction():
            tables.create_tables(connection, store._server.schema, store.place)
            Transaction(store, connection).switch(Switch(1, model, now(), None))
        return store

    @classmethod
    def open(cls, url: str, timeout: float = 30.0) -> "PostgresStore":
        """Open a gallery.

        Raises:
            GalleryError: there is none, or it is not all mixbct's, or of a later version.
        """
        store = cls(url, timeout)
        with closed_on_error(store), store._connected() as connection:
            tables.check_tables(connection, store._server.schema, store.place)
        return store

    @property
    def place(self) -> str:
        """The URL without its password."""
        return self._server.place

    @contextlib.contextmanager
    def _connected(self) -> Iterator["Connection"]:
        """Lend a connection; one that failed is not used again."""
        if self._closed:
            raise GalleryError(f"{self.place} was closed; open it again")
        connection = self._idle_one()
        if connection is None:
            connection = self._server.connect(self._server.schema)
            # rows are read in the order of their ids, however many the server thinks there are
            connection.execute("SET enable_bitmapscan = off")
        try:
            with self._server.named_errors():
                yield connection
        finally:
            with contextlib.suppress(Exception):
                connection.rollback()  # what an error left open
            with self._lock:
                kept = connection.info.transaction_status == 0 and not self._closed
                self._idle += [connection] * kept
            if not kept:
                connection.close()

    def _idle_one(self) -> "Connection | None":
        """Return a connection that is there still; the server may have been started again."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            with contextlib.suppress(GalleryError), self._server.named_errors():
                connection.execute("SELECT")
                return connection
            connection.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[Snapshot]:
        """Enclose reads of one state."""
        with self._connected() as connection:
            # the lock comes before the state is chosen: what is dropped was dropped before it
            connection.execute(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
                "LOCK TABLE derived IN ACCESS SHARE MODE"
            )
            yield Snapshot(self, connection)
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def write(self, wait: bool = True) -> Iterator[Transaction]:
        """Enclose changes that happen whole or not at all, one client at a time."""
        with self._connected() as connection, connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = {int(1000 * self._timeout)}".encode())
            connection.execute(f"SELECT FROM gallery FOR UPDATE{' NOWAIT' * (not wait)}".encode())
            yield Transaction(self, connection)

    def prepare(
        self,
        contract: Contract,
        side: LinearMap | None = None,
        progress: Tick | None = None,
        wait: bool = True,
    ) -> None:
        """Make mapped rows, some thousand at a time, beside all that goes on."""
        whole = False
        try:
            while not whole:
                with self.write(wait) as transaction:
                    whole = derive(transaction, contract, side, progress)
        except FeatureError:
            with self.write() as transaction:
                if known := transaction.derived(contract, side):
                    forget(transaction, known)
            raise
        self.sweep()

    def reindex(
        self, searched_by: str, progress: Tick | None = None
    ) -> list[tuple[Stored, bool, float]]:
        """Search in another way from now on; build what the query model needs for it.

        Args:
            searched_by: "exact", "pgvector-hnsw", or a place of Milvus (`milvus.py`).
            progress: as for `prepare`, contract by contract.

        Returns:
            The contracts, whether searches of them are exact, and their recall at 10.

        Raises:
            GalleryError: there is no such way, or it cannot be reached.
        """
        if searched_by not in (EXACT, HNSW):
            Milvus(searched_by).count("none")  # it is there
        with self.write() as transaction:
            reindex(transaction, searched_by)
        with self.read() as snapshot:
            sides = {stored: snapshot.side_of(stored.contract) for stored in snapshot.contracts()}
        for stored, side in sides.items():
            self.prepare(stored.contract, side, progress)
        with self.read() as snapshot:
            return [(s, *recall(snapshot, s.contract, side)) for s, side in sides.items()]

    def milvus(self, searched_by: str) -> Milvus | None:
        """Return where vectors are searched, by what the gallery says; None: here."""
        with self._lock:
            if self._milvus is None or self._milvus[0] != searched_by:
                there = Milvus(searched_by) if searched_by.startswith("milvus:") else None
                self._milvus = searched_by, there
            return self._milvus[1]

    def sweep(self) -> None:
        """Drop tables of mapped rows that were forgotten, if nobody is reading."""
        query = (
            "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = current_schema() AND "
            "tablename LIKE 'mapped%%' AND tablename NOT IN (SELECT name FROM derived)"
        )
        with contextlib.suppress(GalleryError), self.write(wait=False) as transaction:
            transaction.do("LOCK TABLE derived IN ACCESS EXCLUSIVE MODE NOWAIT")
            for (name,) in transaction.do(query):
                transaction.do(f"DROP TABLE {name}")

    def size(self) -> int:
        """Return how many bytes the schema takes on the server."""
        with self._connected() as connection:
            found = connection.execute(
                "SELECT sum(pg_total_relation_size(oid)) FROM pg_catalog.pg_class "
                "WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
            ).fetchone()
            return int(found[0]) if found else 0

    def close(self) -> None:
        """Close all connections that are not at work; those that are end when they are done."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        if self._milvus and self._milvus[1]:
            self._milvus[1].close()
