"""The embedded gallery store: one SQLite file.

Write-ahead logging: readers go on while one process writes, and a process that is killed leaves
the last committed state. Vectors are little-endian float32, L2-normalised.
"""

import contextlib
import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from mixbct.errors import DiskFullError, GalleryError, MixbctError
from mixbct.gallery.store import Block, Ids, Item, QueryModel, total_size
from mixbct.schemas.gate import Edge
from mixbct.schemas.model import Contract
from mixbct.schemas.record import now

APPLICATION_ID = 0x6D786263  # "mxbc" in the file's header
SCHEMA = 1
BLOCK = 8192

# an index that has seen none of the last this many changes is built anew
_HISTORY = 100_000

_TABLES = """
CREATE TABLE contracts (id TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT;
CREATE TABLE edges (
    from_id TEXT NOT NULL REFERENCES contracts, to_id TEXT NOT NULL REFERENCES contracts,
    json TEXT NOT NULL, PRIMARY KEY (from_id, to_id)) STRICT;
CREATE TABLE query_model (
    one INTEGER PRIMARY KEY CHECK (one = 1), contract_id TEXT NOT NULL REFERENCES contracts,
    folder TEXT) STRICT;
CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, label TEXT NOT NULL,
    contract_id TEXT NOT NULL REFERENCES contracts, time TEXT NOT NULL,
    vector BLOB NOT NULL) STRICT;
CREATE INDEX items_by_contract ON items (contract_id);
CREATE TABLE changes (
    revision INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL,
    removed INTEGER NOT NULL) STRICT;
"""


@lru_cache(maxsize=64)
def _edge(text: str) -> Edge:
    """Read an edge. To check its query map takes longer than a search of many rows."""
    return Edge.model_validate_json(text)


@contextlib.contextmanager
def _as_named_error(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _named(error, path) from error


def _named(error: sqlite3.Error, path: Path) -> MixbctError:
    # the low byte is the primary code; where Python itself refuses there is none
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFullError(
            f"no space left while writing {path}; free some space and run the same command again "
            "(what was enrolled before is intact, nothing of this batch is stored)"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return GalleryError(
            f"{path} is being written by another process; wait until that is done and run the "
            "same command again"
        )
    if code == sqlite3.SQLITE_NOTADB:
        return GalleryError(f"{path} is not a gallery: it is not an SQLite file")
    if code == sqlite3.SQLITE_CORRUPT:
        return GalleryError(f"{path} is damaged ({error}); restore it from a backup")
    return GalleryError(f"{path} cannot be used as a gallery: {error}")


class SqliteStore:
    """A store in one SQLite file, for one thread; any number of processes may open it.

    Args:
        path: the file.
        timeout: seconds to wait for another process that is writing.
    """

    def __init__(self, path: Path, timeout: float = 30.0) -> None:
        self.path = path
        with _as_named_error(path):
            # `isolation_level=None`: transactions begin and end where `writing` says, only there
            self.connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=timeout,
                isolation_level=None,
            )
            self.connection.execute("PRAGMA foreign_keys = ON")

    @classmethod
    def create(cls, path: Path, model: QueryModel) -> "SqliteStore":
        """Make an empty store; what an interrupted `create` left behind is taken over.

        Raises:
            GalleryError: there is something else already.
        """
        if not path.exists():
            path.touch()
        store = cls(path)
        try:
            with _as_named_error(path):
                if store._tables():
                    raise GalleryError(f"{path} is already there; open it, or choose another place")
                # a row of 512 dimensions takes 2.1 kB: pages of 4 kB would be half empty
                store.connection.execute("PRAGMA page_size = 8192")
                store.connection.execute("PRAGMA journal_mode = WAL")
            with store.writing():
                for statement in _TABLES.split(";"):
                    store.connection.execute(statement)
                store.set_query_model(model)
                store._change(removed=0)
                store.connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                store.connection.execute(f"PRAGMA user_version = {SCHEMA}")
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open(cls, path: Path, timeout: float = 30.0) -> "SqliteStore":
        """Open a store.

        Raises:
            GalleryError: it is missing, something else, unfinished, or of a later version.
        """
        if not path.is_file():
            raise GalleryError(
                f"there is no gallery at {path}; make one with `mixbct gallery init`"
            )
        store = cls(path, timeout)
        try:
            with _as_named_error(path):
                tables = store._tables()
                application, schema = (
                    store.connection.execute(f"PRAGMA {name}").fetchone()[0]
                    for name in ("application_id", "user_version")
                )
            if not tables:
                raise GalleryError(
                    f"{path} is empty: `mixbct gallery init` was interrupted; run it again"
                )
            if application != APPLICATION_ID:
                raise GalleryError(f"{path} is not a gallery: another program wrote it")
            if schema != SCHEMA:
                raise GalleryError(
                    f"{path} has schema {schema}, this version of mixbct reads {SCHEMA}; "
                    "use the version that wrote it"
                )
        except BaseException:
            store.close()
            raise
        return store

    def _tables(self) -> int:
        query = "SELECT count(*) FROM sqlite_master"
        return int(self.connection.execute(query).fetchone()[0])

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Enclose reads that see one unchanging state."""
        with self._transaction("BEGIN"):
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Enclose writes that happen whole or not at all."""
        with self._transaction("BEGIN IMMEDIATE"):
            yield

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        with _as_named_error(self.path):
            self.connection.execute(begin)
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                # a full disk has rolled back already
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def state(self) -> str:
        """Return the last change's number and random token."""
        # with the token, a file restored from a backup and changed since is told from the one
        # that an index has seen, though both have counted to the same number
        revision, token = self.connection.execute(
            "SELECT revision, token FROM changes ORDER BY revision DESC LIMIT 1"
        ).fetchone()
        return f"{revision}-{token}"

    def removed_since(self, state: str) -> int | None:
        """Return how many rows went since `state`, or None where that is not in the history."""
        revision, _, token = state.partition("-")
        known = "SELECT 1 FROM changes WHERE revision = ? AND token = ?"
        if not self.connection.execute(known, (revision, token)).fetchone():
            return None
        total = "SELECT total(removed) FROM changes WHERE revision > ?"
        return int(self.connection.execute(total, (revision,)).fetchone()[0])

    def _change(self, removed: int) -> None:
        cursor = self.connection.execute(
            "INSERT INTO changes (token, removed) VALUES (?, ?)", (secrets.token_hex(8), removed)
        )
        revision = cursor.lastrowid or 0
        self.connection.execute("DELETE FROM changes WHERE revision <= ?", (revision - _HISTORY,))

    def query_model(self) -> QueryModel:
        """Return the present query model."""
        contract, folder = self.connection.execute(
            "SELECT json, folder FROM query_model JOIN contracts ON contracts.id = contract_id"
        ).fetchone()
        return QueryModel(Contract.model_validate_json(contract), Path(folder) if folder else None)

    def set_query_model(self, model: QueryModel) -> None:
        """Record the query model, and its contract."""
        self._add_contract(model.contract)
        self.connection.execute(
            "INSERT OR REPLACE INTO query_model VALUES (1, ?, ?)",
            (model.contract.id, str(model.folder) if model.folder else None),
        )

    def _add_contract(self, contract: Contract) -> None:
        self.connection.execute(
            "INSERT OR IGNORE INTO contracts VALUES (?, ?)",
            (contract.id, contract.model_dump_json()),
        )

    def add_edge(self, edge: Edge) -> None:
        """Record an edge, and both contracts."""
        self._add_contract(edge.from_contract)
        self._add_contract(edge.to_contract)
        self.connection.execute(
            "INSERT OR REPLACE INTO edges VALUES (?, ?, ?)",
            (edge.from_contract.id, edge.to_contract.id, edge.model_dump_json()),
        )

    def edges(self) -> list[Edge]:
        """Return every edge."""
        rows = self.connection.execute("SELECT json FROM edges ORDER BY from_id, to_id")
        return [_edge(row) for (row,) in rows]

    def contracts(self) -> list[Contract]:
        """Return the contracts that have at least one row."""
        rows = self.connection.execute(
            "SELECT json FROM contracts WHERE EXISTS "
            "(SELECT 1 FROM items WHERE contract_id = contracts.id) ORDER BY id"
        )
        return [Contract.model_validate_json(row) for (row,) in rows]

    def counts(self) -> Mapping[str, int]:
        """Return the number of rows by contract id."""
        rows = self.connection.execute("SELECT contract_id, count(*) FROM items GROUP BY 1")
        return dict(rows.fetchall())

    def put(
        self,
        keys: Sequence[str],
        labels: Sequence[str],
        contract: Contract,
        vectors: Float32[np.ndarray, "n d"],
    ) -> int:
        """Add rows in place of those with the same keys; return how many were replaced."""
        self._add_contract(contract)
        removed = self.connection.executemany(
            "DELETE FROM items WHERE key = ?", ((key,) for key in keys)
        ).rowcount
        time = now()
        self.connection.executemany(
            "INSERT INTO items (key, label, contract_id, time, vector) VALUES (?, ?, ?, ?, ?)",
            (
                (key, label, contract.id, time, vector.astype("<f4").tobytes())
                for key, label, vector in zip(keys, labels, vectors, strict=True)
            ),
        )
        self._change(removed)
        return removed

    def held(self, keys: Sequence[str]) -> list[str]:
        """Return which of `keys` have a row, in their order."""
        query = "SELECT 1 FROM items WHERE key = ?"
        return [key for key in keys if self.connection.execute(query, (key,)).fetchone()]

    def items(self, ids: Ids) -> dict[int, Item]:
        """Return the rows of `ids`, without their vectors."""
        rows = self.connection.execute(
            "SELECT id, key, label, contract_id FROM items "
            "WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(ids.tolist()),),
        )
        return {id: Item(*columns) for id, *columns in rows}

    def ids(self, contract_id: str) -> Int64[np.ndarray, " n"]:
        """Return the ids of a contract's rows, ascending."""
        rows = self.connection.execute(
            "SELECT id FROM items WHERE contract_id = ? ORDER BY id", (contract_id,)
        )
        return np.fromiter((id for (id,) in rows), dtype=np.int64)

    def blocks(self, contract: Contract, after: int) -> Iterator[Block]:
        """Yield a contract's rows with an id above `after`, ascending, in blocks of 8,192."""
        rows = self.connection.execute(
            "SELECT id, vector FROM items WHERE contract_id = ? AND id > ? ORDER BY id",
            (contract.id, after),
        )
        while block := rows.fetchmany(BLOCK):
            ids, blobs = zip(*block, strict=True)
            vectors = np.frombuffer(b"".join(blobs), dtype="<f4").reshape(-1, contract.dim)
            yield np.array(ids, dtype=np.int64), vectors.astype(np.float32, copy=False)

    def size(self) -> int:
        """Return the bytes of the file and its write-ahead log."""
        return total_size(self.path.with_name(self.path.name + s) for s in ("", "-wal", "-shm"))

    def close(self) -> None:
        """Close the file."""
        self.connection.close()
