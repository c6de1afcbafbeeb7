"""The gallery's store: one SQLite file, the source of truth.

Write-ahead logging: readers go on while one process writes, and a process that is killed leaves
the last committed state. Vectors are little-endian float32, L2-normalised. Every row has a
checksum, which is looked at whenever the row is read.

An item's id names one version of it: replacing an item gives it a new id, and an id is never used
twice. So the vector behind an id never changes, and a search index that holds some ids is brought
up to date by dropping those that are gone and adding those that came after.
"""

import json
import os
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32
from pydantic import ValidationError

from mixbct.errors import GalleryError
from mixbct.gallery import database
from mixbct.gallery.records import Ids, Item, QueryModel
from mixbct.reading import shown
from mixbct.schemas.gate import Edge
from mixbct.schemas.model import Contract
from mixbct.schemas.record import Record, first_problem, now

Block = tuple[Ids, np.ndarray]
"""Ids [n], ascending, and their vectors float32 [n, d]."""
RecordT = TypeVar("RecordT", bound=Record)


class Cached(NamedTuple):
    """A contract that has rows, and what is known of its index's cache file."""

    contract: Contract
    rows: int
    cached_rows: int
    cached_state: str
    cached_sha256: str


BLOCK = 8192
_HISTORY = 100_000  # an index that has seen none of so many changes is built anew
_LISTED = "IN (SELECT value FROM json_each(?))"


@lru_cache(maxsize=64)
def _parse(model: type[RecordT], text: str) -> RecordT:
    """Read a record. To check an edge's query map takes longer than a search of many rows."""
    return model.model_validate_json(text)


class SqliteStore:
    """A store in one SQLite file, for one thread; any number of processes may open it.

    Every method but `close` is called inside `reading()` or `writing()`. The rules about which
    contracts may meet are the gallery's; a store keeps what it is told.

    Args:
        path: the file.
        timeout: seconds to wait for another process that is writing.
    """

    def __init__(self, path: Path, timeout: float = 30.0) -> None:
        self.path = path
        self._timeout = timeout
        self.connection, frozen = database.connect(path, timeout)
        self._frozen = path.stat().st_mtime_ns if frozen else None

    @classmethod
    def create(cls, path: Path, model: QueryModel) -> "SqliteStore":
        """Make an empty store, also of what an interrupted `create` left behind.

        Raises:
            GalleryError: there is something else already.
        """
        path.touch()
        store = cls(path)
        with database.closed_on_error(store.connection):
            with database.named_errors(path):
                if database.schema_of(store.connection):
                    raise GalleryError(f"{path} is already there; open it, or choose another place")
                # a row of 512 dimensions takes 2.1 kB: pages of 4 kB would be half empty
                store.connection.execute("PRAGMA page_size = 8192")
                store.connection.execute("PRAGMA journal_mode = WAL")
            with store.writing():
                database.bring_up_to_date(store.connection, 0)
                store.set_query_model(model)
                store._change(removed=0)
            return store

    @classmethod
    def open(cls, path: Path, timeout: float = 30.0) -> "SqliteStore":
        """Open a store; one of an earlier version is brought up to date.

        Raises:
            GalleryError: it is missing, unfinished, of a later version, or not all mixbct's.
        """
        if not os.path.isfile(path):  # noqa: PTH113 - the method raises where a name is too long
            raise GalleryError(
                f"there is no gallery at {shown(path)}; make one with "
                f"`mixbct gallery init {shown(path.parent)} --model OLD_MODEL`"
            )
        store = cls(path, timeout)
        with database.closed_on_error(store.connection):
            with store.reading():
                version = database.checked_version(store.connection, path)
            if version < database.SCHEMA and store._frozen is not None:
                raise GalleryError(
                    f"{path} is of an earlier version, and its disk or folder cannot be written: "
                    "open it once where it can, so that it is brought up to date"
                )
            if version < database.SCHEMA:
                with store.writing():
                    database.bring_up_to_date(
                        store.connection, database.checked_version(store.connection, path)
                    )
            return store

    def reading(self) -> AbstractContextManager[None]:
        """Enclose reads that see one unchanging state."""
        if self._frozen is not None and self._frozen != self.path.stat().st_mtime_ns:
            raise GalleryError(f"{self.path} was changed since it was opened; open it again")
        return self._transaction("BEGIN")

    def writing(self, wait: bool = True) -> AbstractContextManager[None]:
        """Enclose reads and writes that happen whole or, on an error, not at all; one at a time."""
        return self._transaction("BEGIN IMMEDIATE", wait)

    @contextmanager
    def _transaction(self, begin: str, wait: bool = True) -> Iterator[None]:
        with database.named_errors(self.path):
            self.connection.execute(f"PRAGMA busy_timeout = {int(1000 * self._timeout * wait)}")
            self.connection.execute(begin)
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:  # a full disk has rolled back already
                    self.connection.execute("ROLLBACK")
                raise

    def _record(self, model: type[RecordT], text: str) -> RecordT:
        try:
            return _parse(model, text)  # type: ignore[no-any-return]
        except (ValidationError, RecursionError) as problem:
            raise GalleryError(
                f"{self.path} holds a record ({model.__name__}) that this version of mixbct cannot "
                f"read: {first_problem(problem)}; use the version that wrote it, or a backup"
            ) from None

    def state(self) -> str:
        """Return a name of the present set of items; every `put` gives it a new one, for good.

        A file restored from a backup and changed since has another, by its random token.
        """
        last = self.connection.execute(
            "SELECT revision || '-' || token FROM changes ORDER BY revision DESC LIMIT 1"
        ).fetchone()
        if last is None:
            raise database.damaged(self.path, "it has no history")
        return str(last[0])

    def removed_since(self, state: str) -> int | None:
        """Return how many rows went since `state`, or None where that is not in the history."""
        removed = self.connection.execute(
            "SELECT (SELECT total(removed) FROM changes WHERE revision > seen.revision) "
            "FROM changes AS seen WHERE revision = ? AND token = ?",
            state.split("-", 1) if "-" in state else (None, None),
        ).fetchone()
        return None if removed is None else int(removed[0])

    def _change(self, removed: int) -> None:
        cursor = self.connection.execute(
            "INSERT INTO changes (token, removed) VALUES (?, ?)", (secrets.token_hex(8), removed)
        )
        revision = cursor.lastrowid or 0
        self.connection.execute("DELETE FROM changes WHERE revision <= ?", (revision - _HISTORY,))

    def query_model(self) -> QueryModel:
        """Return the present query model."""
        found = self.connection.execute(
            "SELECT json, folder FROM query_model JOIN contracts ON contracts.id = contract_id"
        ).fetchone()
        if found is None:
            raise database.damaged(self.path, "it names no query model")
        return QueryModel(self._record(Contract, found[0]), Path(found[1]) if found[1] else None)

    def set_query_model(self, model: QueryModel) -> None:
        """Record the query model, and its contract."""
        self._add_contract(model.contract)
        self.connection.execute(
            "INSERT OR REPLACE INTO query_model VALUES (1, ?, ?)",
            (model.contract.id, str(model.folder) if model.folder else None),
        )

    def _add_contract(self, contract: Contract) -> None:
        self.connection.execute(
            "INSERT OR IGNORE INTO contracts (id, json) VALUES (?, ?)",
            (contract.id, contract.model_dump_json()),
        )

    def add_edge(self, edge: Edge) -> None:
        """Record an edge, and both contracts, in place of one between the same two."""
        self._add_contract(edge.from_contract)
        self._add_contract(edge.to_contract)
        row = edge.from_contract.id, edge.to_contract.id, edge.model_dump_json()
        self.connection.execute(
            "INSERT OR REPLACE INTO edges VALUES (?, ?, ?, ?)",
            (*row, database.digest_of(*row, b"")),
        )

    def edges(self) -> list[Edge]:
        """Return every edge."""
        rows = self.connection.execute("SELECT * FROM edges ORDER BY from_id, to_id").fetchall()
        for from_id, to_id, text, digest in rows:
            if digest != database.digest_of(from_id, to_id, text, b""):
                raise database.damaged(self.path, f"the edge from {from_id} to {to_id} was changed")
        return [self._record(Edge, text) for _, _, text, _ in rows]

    def contracts(self) -> list[Cached]:
        """Return the contracts that have at least one row."""
        rows = self.connection.execute(
            "SELECT json, rows, cached_rows, cached_state, cached_sha256 FROM contracts "
            "WHERE rows > 0 ORDER BY id"
        )
        return [Cached(self._record(Contract, text), *known) for text, *known in rows.fetchall()]

    def put(
        self,
        keys: Sequence[str],
        labels: Sequence[str],
        contract: Contract,
        vectors: Float32[np.ndarray, "n d"],
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Add rows in place of those with the same keys; return how many were replaced."""
        self._add_contract(contract)
        id, time, more = contract.id, now(), Counter({contract.id: len(keys)})
        for start in range(0, len(keys), BLOCK):
            part = slice(start, start + BLOCK)
            gone = self.connection.execute(
                f"DELETE FROM items WHERE key {_LISTED} RETURNING contract_id",
                (json.dumps(keys[part]),),
            )
            more.subtract(name for (name,) in gone)
            blobs = [vector.tobytes() for vector in vectors[part].astype("<f4")]
            self.connection.executemany(
                "INSERT INTO items (key, label, contract_id, time, vector, digest) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (key, label, id, time, blob, database.digest_of(key, label, id, blob))
                    for key, label, blob in zip(keys[part], labels[part], blobs, strict=True)
                ),
            )
            if progress:
                progress(start + len(blobs), len(keys))
        self.connection.executemany(
            "UPDATE contracts SET rows = rows + ? WHERE id = ?",
            ((count, name) for name, count in more.items()),
        )
        removed = len(keys) - more.total()
        self._change(removed)
        return removed

    def held(self, keys: Sequence[str]) -> list[str]:
        """Return which of `keys` have a row, in their order."""
        query = "SELECT 1 FROM items WHERE key = ?"
        return [key for key in keys if self.connection.execute(query, (key,)).fetchone()]

    def items(self, ids: Ids) -> dict[int, Item]:
        """Return the rows of `ids`, without their vectors."""
        found = {}
        for row in self._rows(f"id {_LISTED}", json.dumps(ids.tolist())):
            found[row[0]] = Item(*row[1:4])
            if row[5] != database.digest_of(*row[1:5]):
                raise self._changed([row[1]])
        if len(found) != len(ids):
            raise database.damaged(
                self.path, f"{len(ids) - len(found)} rows of its index are not there"
            )
        return found

    def ids(self, contract_id: str) -> Ids:
        """Return the ids of a contract's rows, ascending."""
        rows = self.connection.execute(
            "SELECT id FROM items WHERE contract_id = ? ORDER BY id", (contract_id,)
        )
        return np.fromiter((id for (id,) in rows), dtype=np.int64)

    def blocks(
        self, contract: Contract, after: int, changed: list[str] | None = None
    ) -> Iterator[Block]:
        """Yield a contract's rows with an id above `after`, ascending, in checked blocks of 8,192.

        The keys of rows whose digest, length or norm is wrong go to `changed`, and their blocks
        are left out; without it they are an error.
        """
        rows = self._rows("contract_id = ? AND id > ? ORDER BY id", contract.id, after)
        while block := rows.fetchmany(BLOCK):
            ids = np.array([row[0] for row in block], dtype=np.int64)
            if (np.diff(ids, prepend=after) <= 0).any():
                raise database.damaged(self.path, "its rows are out of order")
            after, size = int(ids[-1]), 4 * contract.dim
            wrong = [
                r[1] for r in block if r[5] != database.digest_of(*r[1:5]) or len(r[4]) != size
            ]
            if not wrong:
                vectors = np.frombuffer(b"".join(row[4] for row in block), dtype="<f4")
                vectors = vectors.reshape(-1, contract.dim).astype(np.float32, copy=False)
                squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
                wrong = [block[i][1] for i in np.flatnonzero(~(abs(squares - 1) < 1e-3))]
            if not wrong:
                yield ids, vectors
            elif changed is None:
                raise self._changed(wrong)
            else:
                changed += wrong

    def _rows(self, where: str, *values: str | int) -> sqlite3.Cursor:
        return self.connection.execute(
            f"SELECT id, key, label, contract_id, vector, digest FROM items WHERE {where}", values
        )

    def _changed(self, keys: list[str]) -> GalleryError:
        return GalleryError(
            f"{self.path} is damaged: the item {keys[0]!r} is not as it was enrolled; "
            f"`mixbct gallery status {self.path.parent} --verify` lists all such items. Enrol them "
            "again (--replace), or restore a backup"
        )

    def set_cache(self, contract: Contract, rows: int, state: str, sha256: str) -> None:
        """Record what the cache file of a contract's index holds."""
        self.connection.execute(
            "UPDATE contracts SET cached_rows = ?, cached_state = ?, cached_sha256 = ? "
            "WHERE id = ?",
            (rows, state, sha256, contract.id),
        )

    def close(self) -> None:
        """Close the file."""
        self.connection.close()
