"""PostgreSQL as a gallery's database: its connections, locks and derived tables."""

import contextlib
import re
import threading
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from itertools import starmap
from typing import TYPE_CHECKING, Any, Final

from mixbct.data.postgresql import Server
from mixbct.errors import FeatureError, GalleryError
from mixbct.gallery.facts import Asked, Known
from mixbct.gallery.milvus import Milvus
from mixbct.gallery.postgres import tables
from mixbct.gallery.postgres.bulk import copy, rows_of, vectors_of
from mixbct.gallery.postgres.derive import derive, forget
from mixbct.gallery.postgres.search import Derived, derived, search, table_of
from mixbct.gallery.records import Found, Parts, Rows, Tick
from mixbct.gallery.snapshot import Snapshot
from mixbct.gallery.tables import digest_of
from mixbct.gallery.transaction import Transaction
from mixbct.schemas.contract import Contract
from mixbct.schemas.linear_map import LinearMap

if TYPE_CHECKING:
    from psycopg import Connection

    from mixbct.gallery.store import Store

_BEGIN: Final = {
    # the lock comes before the state is chosen: what is dropped was dropped before it
    "read": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
    "LOCK TABLE derived IN ACCESS SHARE MODE",
    # the catalogue and what the tables hold are of one state, whoever brings them up beside
    "make": "BEGIN ISOLATION LEVEL REPEATABLE READ",
}


class Postgres:
    """A schema of a database, with a connection for each thread at work.

    Args:
        url: of the database (`data/postgresql.py`).
        timeout: seconds to wait for another client that is writing.
    """

    whole: Final = ""
    held: Final = None

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        self.server = Server(url)
        self.place = self.file = self.server.place
        """The URL without its password."""
        self.named_errors = self.server.named_errors
        self._timeout = timeout
        self._lock = threading.Lock()
        self._milvus: tuple[str, Milvus | None] | None = None

    @cached_property
    def taken(self) -> type[Exception]:
        """What the server raises where a key is there already."""
        from psycopg.errors import UniqueViolation

        return UniqueViolation

    @staticmethod
    def checksum(key: str, label: str | None, contract_id: str, vector: bytes) -> int:
        """Return a row's checksum as the server's `integer` holds it."""
        return digest_of(key, "\0" if label is None else label, contract_id, vector) - 2**31

    def lay_ground(self) -> None:
        """Have pgvector in the database."""
        with self.named_errors(), self.server.connect() as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")

    def create_tables(self, connection: "Connection") -> None:
        """Make the tables of an empty gallery."""
        tables.create_tables(connection, self.server.schema, self.place)

    def is_old(self, connection: "Connection") -> bool:
        """Return whether a gallery is of an earlier version; refuse what is none of mixbct's."""
        version = tables.checked_version(connection, self.server.schema, self.place)
        return version < tables.VERSION

    def bring_up(self, connection: "Connection") -> None:
        """Bring a gallery of an earlier version up to date, unless another client has."""
        version = tables.checked_version(connection, self.server.schema, self.place)
        if version < tables.VERSION:
            tables.bring_up_to_date(connection, version)

    def connect(self) -> "Connection":
        """Open a connection."""
        connection = self.server.connect(self.server.schema)
        # rows are read in the order of their ids, however many the server thinks there are
        connection.execute("SET enable_bitmapscan = off")
        return connection

    def is_at_rest(self, connection: "Connection") -> bool:
        """Return whether a connection can be lent again."""
        return connection.info.transaction_status == 0

    def begin(self, connection: "Connection", what: str, wait: bool) -> None:
        """Begin a transaction that reads, writes, makes or brings up a gallery."""
        timeout = f"SET LOCAL lock_timeout = {int(1000 * self._timeout)}"
        lock = f"SELECT FROM gallery FOR UPDATE{' NOWAIT' * (not wait)}"
        if what == "upgrade":  # two that share a lock would wait for each other
            lock = "LOCK TABLE gallery IN ACCESS EXCLUSIVE MODE"
        connection.execute(_BEGIN.get(what, f"BEGIN; {timeout}; {lock}").encode())

    def run(
        self, connection: "Connection", query: str, values: tuple[Any, ...]
    ) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        cursor = connection.execute(query.encode(), values or None, binary=True)
        return cursor.fetchall() if cursor.description else []

    def content(self, stored: Any) -> bytes:
        """Return a vector's bytes, little-endian float32."""
        content: bytes = stored.to_numpy().astype("<f4", copy=False).tobytes()
        return content

    def create_rows(self, to: Transaction, table: str, dim: int) -> None:
        """Make a table of rows, with its index where there is to be one."""
        tables.create_rows(to.connection, table, dim, to.facts.searched_by)

    def add_rows(self, connection: "Connection", table: str, parts: Iterable[Rows]) -> None:
        """Add rows to a table."""
        copy(connection, table, map(rows_of, parts))

    def add_vectors(self, connection: "Connection", table: str, parts: Parts) -> None:
        """Add ids and vectors to a table."""
        copy(connection, table, starmap(vectors_of, parts))

    def followed(self, to: Transaction, known: Known) -> Iterator[tuple[str, LinearMap]]:
        """Yield the tables of a contract's mapped rows, and what maps them."""
        follow = "SELECT name, json FROM derived WHERE contract = %s AND name LIKE 'mapped%%'"
        for name, text in to.do(follow, known.number):
            yield _checked(to, name), to.parsed(LinearMap, text)

    def derived(self, snapshot: Snapshot) -> dict[tuple[int, str], Derived]:
        """Return what is made of rows, by contract's number and digest of the side."""
        made = "SELECT contract, side, name, filled, last, rows FROM derived WHERE contract > 0"
        return {
            (number, side): Derived(_checked(snapshot, name), *rest)
            for number, side, name, *rest in snapshot.do(made)
        }

    def keep(self, to: Transaction, needed: Collection[tuple[str, str]]) -> None:
        """Forget what is derived but for what is needed."""
        contracts = {known.number: id for id, known in to.facts.contracts.items()}
        for (number, side), made in list(to.facts.derived.items()):
            if (contracts[number], side) not in needed:
                forget(self, to, made)

    def erase(self, to: Transaction, revision: int) -> None:
        """Forget what is in Milvus with rows that are gone; mapped rows went with theirs."""
        for (number, _), made in list(to.facts.derived.items()):
            kept = f"SELECT count(*) FROM rows_{number} WHERE id <= %s"
            if not made.is_table and to.do(kept, made.filled) != [(made.rows,)]:
                forget(self, to, made)

    def search(self, snapshot: Snapshot, asked: Asked) -> Found:
        """Return the nearest rows of one contract."""
        return search(self, snapshot, asked)

    def milvus(self, snapshot: Snapshot) -> Milvus | None:
        """Return where vectors are searched, by what the gallery says; None: here."""
        by = snapshot.facts.searched_by
        with self._lock:
            if self._milvus is None or self._milvus[0] != by:
                self._milvus = by, Milvus(by) if by.startswith("milvus:") else None
            return self._milvus[1]

    def ready(self, snapshot: Snapshot, known: Known, side: LinearMap | None) -> int | None:
        """Return for how many rows a search through `side` is prepared."""
        made = derived(snapshot, known, side)
        by_milvus = made and made.filled >= made.last
        whole = by_milvus if self.milvus(snapshot) else table_of(snapshot, known, side)
        return known.rows if whole else None

    def after_reading(self, store: "Store") -> None:
        """Nothing is left over."""

    def after_pruning(self, store: "Store") -> None:
        """Leave it to the server when it frees rows."""

    def prepare_beside(self, snapshot: Snapshot, known: Known, side: LinearMap | None) -> None:
        """Build what is missing for those who come later; this state cannot see it."""
        if not isinstance(snapshot, Transaction):  # who writes would wait for itself
            with contextlib.suppress(GalleryError):
                self.prepare(snapshot.store, known.contract, side, wait=False)

    def prepare(
        self,
        store: "Store",
        contract: Contract,
        side: LinearMap | None = None,
        progress: Tick | None = None,
        wait: bool = True,
    ) -> None:
        """Make mapped rows, some thousand at a time, beside all that goes on."""
        whole = False
        try:
            while not whole:
                with store.write(wait) as to:
                    whole = derive(self, to, contract, side, progress)
        except FeatureError:
            with store.write() as to:
                if made := derived(to, to.record(contract), side):
                    forget(self, to, made)
            raise
        self.sweep(store)

    def sweep(self, store: "Store") -> None:
        """Drop tables of mapped rows that were forgotten, if nobody is reading."""
        query = (
            "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = current_schema() AND "
            "tablename ~ '^mapped_[0-9a-f]{12}$' AND tablename NOT IN (SELECT name FROM derived)"
        )
        with contextlib.suppress(GalleryError), store.write(wait=False) as to:
            to.do("LOCK TABLE derived IN ACCESS EXCLUSIVE MODE NOWAIT")
            for (name,) in to.do(query):
                to.do(f"DROP TABLE {name}")

    def size(self, connection: "Connection") -> int:
        """Return how many bytes the schema takes on the server."""
        found = connection.execute(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_catalog.pg_class "
            "WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
        ).fetchone()
        return int(found[0]) if found else 0

    def faults(self, snapshot: Snapshot) -> list[str]:
        """Return which tables of mapped rows have other rows than they were made of."""
        found = []
        for (number, _), made in snapshot.facts.derived.items():
            if made.is_table and made.filled >= made.last:
                names = made.name, f"rows_{number}"
                mapped, stored = (snapshot.do(f"SELECT count(*) FROM {name}") for name in names)
                if mapped != stored:
                    found.append(f"{made.name} has other rows than it was made of")
        return found

    def close(self) -> None:
        """Close the connection to Milvus, where one was opened."""
        if self._milvus and self._milvus[1]:
            self._milvus[1].close()


def _checked(snapshot: Snapshot, name: str) -> str:
    """Return the name of what is derived, which is part of statements."""
    if not re.fullmatch("(mapped|mixbct)_[0-9a-f]{12}", name):
        raise snapshot.damaged("what is derived of its rows has a strange name")
    return name
