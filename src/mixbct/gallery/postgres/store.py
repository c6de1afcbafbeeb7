"""A gallery in PostgreSQL: its connections, and what is made beside all that goes on."""

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mixbct.data.postgresql import Server
from mixbct.errors import FeatureError, GalleryError
from mixbct.gallery.postgres import tables
from mixbct.gallery.postgres.snapshot import Facts, Snapshot
from mixbct.gallery.postgres.transaction import Transaction
from mixbct.gallery.records import QueryModel, Switch
from mixbct.gallery.store import Tick
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

    @classmethod
    def create(cls, url: str, model: QueryModel) -> "PostgresStore":
        """Make the tables of an empty gallery.

        Raises:
            GalleryError: something is there already, or it may or can not be made.
        """
        store = cls(url)
        with store._server.named_errors(), store._server.connect() as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        with store._connected() as connection, connection.transaction():
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
        with store._connected() as connection:
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
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None or connection.closed:
            connection = self._server.connect()
            self._set_up(connection)
        try:
            with self._server.named_errors():
                yield connection
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _set_up(self, connection: "Connection") -> None:
        from psycopg import sql

        path = sql.SQL("SET search_path = {}, {}").format
        with self._server.named_errors():
            where = connection.execute(
                "SELECT n.nspname FROM pg_catalog.pg_extension e "
                "JOIN pg_catalog.pg_namespace n ON n.oid = extnamespace WHERE extname = 'vector'"
            ).fetchone()
            names = self._server.schema, where[0] if where else "public"
            connection.execute(path(*map(sql.Identifier, names)))

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
            wait_for = max(int(1000 * self._timeout * wait), 1)
            connection.execute(f"SET LOCAL lock_timeout = {wait_for}".encode())
            connection.execute("SELECT FROM gallery FOR UPDATE")
            yield Transaction(self, connection)

    def prepare(
        self, contract: Contract, side: LinearMap | None = None, progress: Tick | None = None
    ) -> None:
        """Make mapped rows, some thousand at a time, beside all that goes on."""
        if side is None:
            return
        whole = False
        try:
            while not whole:
                with self.write() as transaction:
                    whole = transaction.derive(contract, side, progress)
        except FeatureError:
            with self.write() as transaction:
                transaction.forget(contract, side)
            raise
        self._sweep()

    def _sweep(self) -> None:
        """Drop tables of mapped rows that were forgotten, if nobody is reading."""
        with (
            contextlib.suppress(GalleryError),
            self._connected() as connection,
            connection.transaction(),
        ):
            connection.execute("LOCK TABLE derived IN ACCESS EXCLUSIVE MODE NOWAIT")
            for (name,) in connection.execute(
                "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = current_schema() "
                "AND tablename LIKE 'mapped%' AND tablename NOT IN (SELECT name FROM derived)"
            ).fetchall():
                connection.execute(f"DROP TABLE {name}".encode())

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
