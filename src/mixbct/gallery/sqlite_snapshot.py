"""Reading an SQLite gallery: one committed state, every row held to its checksum."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float32
from pydantic import ValidationError

from mixbct.errors import GalleryError
from mixbct.features.bridged import through
from mixbct.gallery import database
from mixbct.gallery.index import RowIndex, read_index
from mixbct.gallery.records import (
    Found,
    Ids,
    Item,
    QueryModel,
    RowBlock,
    Stored,
    Switch,
    Version,
)
from mixbct.gallery.sqlite_shared import Held, Key, Shared, State, file_name, key_of, keys_from
from mixbct.gallery.store import Tick
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.record import Record, first_problem

BLOCK = 8192
LISTED = "IN (SELECT value FROM json_each(?))"
_ROW = "SELECT id, key, label, contract_id, vector, digest FROM"

RecordT = TypeVar("RecordT", bound=Record)


@lru_cache(maxsize=16)
def _parsed(model: type[RecordT], text: str) -> RecordT:
    return model.model_validate_json(text)


class SqliteSnapshot:
    """See `store.Snapshot`. Make it before its transaction begins.

    Args:
        connection: it reads through this.
        path: of the file.
        shared: the indexes in this process; it takes hold of those that are there.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, shared: Shared) -> None:
        self.connection = connection
        self._path = path
        self._shared = shared
        self._held = shared.held
        self._state: State | None = None
        self._reading: list[sqlite3.Cursor] = []

    def end(self) -> None:
        """Let go of what is half read: it would keep the state from going on."""
        for cursor in self._reading:
            cursor.close()

    def _record(self, model: type[RecordT], text: str) -> RecordT:
        try:
            return _parsed(model, text)  # type: ignore[no-any-return]
        except (ValidationError, RecursionError) as problem:
            raise GalleryError(
                f"{self._path} holds a record ({model.__name__}) that this version of mixbct "
                f"cannot read: {first_problem(problem)}; use the version that wrote it, or a backup"
            ) from None

    def query_model(self) -> QueryModel:
        """Return the model that queries and enrols."""
        return self._switches("ORDER BY number DESC LIMIT 1")[0].model

    def switches(self) -> list[Switch]:
        """Return every switch, oldest first."""
        return self._switches("ORDER BY number")

    def _switches(self, which: str) -> list[Switch]:
        rows = self.connection.execute(
            "SELECT number, json, folder, time, before, restores FROM switches "
            f"JOIN contracts ON contracts.id = contract_id {which}"
        ).fetchall()
        if not rows:
            raise database.damaged(self._path, "it names no query model")
        return [
            Switch(number, QueryModel(self._record(Contract, text), folder and Path(folder)), *more)
            for number, text, folder, *more in rows
        ]

    def edges(self) -> list[Edge]:
        """Return every present edge."""
        where = "FROM edges WHERE ended IS NULL ORDER BY from_id, to_id"
        seen = self.connection.execute(f"SELECT id, digest {where}").fetchall()
        known, edges = self._shared.edges
        if seen == known:
            return list(edges)
        edges = []
        for from_id, to_id, text, digest in self.connection.execute(
            f"SELECT from_id, to_id, json, digest {where}"
        ).fetchall():
            if digest != database.digest_of(from_id, to_id, text, b""):
                changed = f"the edge from {from_id} to {to_id} was changed"
                raise database.damaged(self._path, changed)
            edges.append(self._record(Edge, text))
        self._shared.edges = seen, edges
        return list(edges)

    def contracts(self) -> list[Stored]:
        """Return the contracts that have rows."""
        rows = self.connection.execute(
            "SELECT json, rows FROM contracts WHERE rows > 0 ORDER BY id"
        )
        return [Stored(self._record(Contract, text), count) for text, count in rows.fetchall()]

    def ids(self, keys: Collection[str]) -> dict[str, int]:
        """Return the id of each key that has a row."""
        found = dict(
            self.connection.execute(
                f"SELECT key, id FROM items WHERE key {LISTED}", (json.dumps(list(keys)),)
            ).fetchall()
        )
        return {key: found[key] for key in keys if key in found}

    def items(self, ids: Collection[int]) -> dict[int, Item]:
        """Return the items of `ids`."""
        return {row[0]: Item(*row[1:4]) for row in self._rows_of(ids)}

    def vectors(self, ids: Collection[int]) -> dict[int, Float32[np.ndarray, " d"]]:
        """Return the vectors of `ids`."""
        return {
            row[0]: np.frombuffer(row[4], "<f4").astype(np.float32) for row in self._rows_of(ids)
        }

    def _rows_of(self, ids: Collection[int]) -> list[tuple[int, str, str | None, str, bytes, int]]:
        asked = json.dumps([int(id) for id in ids])
        rows = self.connection.execute(f"{_ROW} items WHERE id {LISTED}", (asked,)).fetchall()
        for row in rows:
            if row[5] != database.digest_of(*row[1:5]):
                raise self._changed([row[1]])
        if len(rows) != len(ids):
            missing = f"{len(ids) - len(rows)} rows of its index are not there"
            raise database.damaged(self._path, missing)
        return rows

    def blocks(self, contract: Contract, after: int = 0) -> Iterator[RowBlock]:
        """Yield a contract's rows with an id above `after` in checked blocks."""
        return self._blocks(contract, after, None)

    def _blocks(
        self, contract: Contract, after: int, changed: list[str] | None, table: str = "items"
    ) -> Iterator[RowBlock]:
        """Yield rows; the keys of changed ones go to `changed`, without which they are an error."""
        cursor = self.connection.execute(
            f"{_ROW} {table} WHERE contract_id = ? AND id > ? ORDER BY id", (contract.id, after)
        )
        self._reading.append(cursor)
        while rows := cursor.fetchmany(BLOCK):
            ids = np.array([row[0] for row in rows], dtype=np.int64)
            if (np.diff(ids, prepend=after) <= 0).any():
                raise database.damaged(self._path, "its rows are out of order")
            after, size = int(ids[-1]), 4 * contract.dim
            wrong = [r[1] for r in rows if r[5] != database.digest_of(*r[1:5]) or len(r[4]) != size]
            if not wrong:
                vectors = np.frombuffer(b"".join(row[4] for row in rows), dtype="<f4")
                vectors = vectors.reshape(-1, contract.dim).astype(np.float32, copy=False)
                squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
                wrong = [rows[i][1] for i in np.flatnonzero(~(abs(squares - 1) < 1e-3))]
            if not wrong:
                yield RowBlock(ids, [row[1] for row in rows], [row[2] for row in rows], vectors)
            elif changed is None:
                raise self._changed(wrong)
            else:
                changed += wrong

    def _changed(self, keys: list[str]) -> GalleryError:
        return GalleryError(
            f"{self._path} is damaged: the item {keys[0]!r} is not as it was enrolled; "
            f"`mixbct gallery status {self._path.parent} --verify` lists all such items. Enrol "
            "them again (--replace), or restore a backup"
        )

    def versions(self, key: str) -> list[Version]:
        """Return what an item was, and is."""
        rows = self.connection.execute(
            "SELECT id, label, contract_id, time, until FROM past WHERE key = ? UNION ALL "
            "SELECT id, label, contract_id, time, NULL FROM items WHERE key = ? ORDER BY id",
            (key, key),
        )
        return [Version(*row) for row in rows.fetchall()]

    def hits(self) -> dict[str, int]:
        """Return how often present items were found."""
        return dict(self.connection.execute("SELECT key, count FROM hits JOIN items USING (key)"))

    def search(
        self,
        contract: Contract,
        queries: Float32[np.ndarray, "q d"],
        k: int,
        side: LinearMap | None = None,
    ) -> Found:
        """Return the nearest rows of one contract, by an exact search."""
        return Found(*self.index(contract, side).search(queries, k), exact=True)

    def index(
        self, contract: Contract, side: LinearMap | None = None, progress: Tick | None = None
    ) -> RowIndex:
        """Return the index of a contract's rows in this state; `progress` counts what it adds."""
        key, state = key_of(contract, side), self.state()
        held = self._held.get(key)
        if held is not None and held.state == state:
            return held.index
        with self._shared.following(key):
            newest = self._shared.held.get(key)
            if newest is not None and newest.state == state:
                return newest.index
            followed = self._followed(contract, side, (newest, held), state, progress)
            # what another thread has followed further, stays
            if not self.changing() and not (newest and newest.state.revision > state.revision):
                present = self._switches("ORDER BY number DESC LIMIT 1")[0]
                needed = keys_from(present.model.contract, self.edges())
                self._shared.swap(key, followed, present.number, needed)
        return followed.index

    def _followed(
        self,
        contract: Contract,
        side: LinearMap | None,
        held: Iterable[Held | None],
        state: State,
        progress: Tick | None,
    ) -> Held:
        start = next((each for each in held if each and self._knows(each.state)), None)
        start = start or self._loaded(contract, side)
        counts = {stored.contract.id: stored.rows for stored in self.contracts()}
        rows = counts.get(contract.id, 0)

        def added(after: int, before: int) -> Iterator[tuple[Ids, np.ndarray]]:
            done = 0
            for block in self.blocks(contract, after):
                yield block.ids, through(side, block.vectors)
                done += len(block.ids)
                if progress:
                    progress(done, max(rows - before, done))

        if start is not None:
            gone = self._gone_since(contract, start.state)
            left = start.index.without(gone)
            index = left.with_rows(added(left.last, len(left)))
            if len(index) == rows:
                return Held(index, state, start.unsaved + len(gone) + len(index) - len(left))
        index = RowIndex().with_rows(added(0, 0))
        if len(index) != rows:
            told = f"{rows:,} rows of {contract} are told of, {len(index):,} are there"
            raise database.damaged(self._path, told)
        return Held(index, state, len(index))

    def _loaded(self, contract: Contract, side: LinearMap | None) -> Held | None:
        key, dim = key_of(contract, side), side.target_dim if side else contract.dim
        if (cache := self._cache(key)) is None:
            return None
        index = read_index(self._path.with_name(file_name(key)), cache[0], dim, cache[1])
        return None if index is None else Held(index, State(*cache[2:]))

    def ready(self, contract: Contract, side: LinearMap | None = None) -> int | None:
        """Return how many rows an index holds, in memory or in its cache file."""
        key = key_of(contract, side)
        if (held := self._held.get(key)) and self._knows(held.state):
            return len(held.index)
        cache = self._cache(key)
        return cache[0] if cache and self._path.with_name(file_name(key)).is_file() else None

    def _cache(self, key: Key) -> tuple[int, str, int, str] | None:
        """Return rows, SHA-256 and state of a cache file of a state that is known."""
        found: tuple[int, str, int, str] | None = self.connection.execute(
            "SELECT rows, sha256, revision, token FROM caches JOIN changes USING (revision, token) "
            "WHERE contract_id = ? AND side = ?",
            key,
        ).fetchone()
        return found

    def state(self) -> State:
        """Return the name of the present set of items; a transaction that changes has its own."""
        if self._state is None or self.changing():
            last = self.connection.execute(
                "SELECT revision, token FROM changes ORDER BY revision DESC LIMIT 1"
            ).fetchone()
            if last is None:
                raise database.damaged(self._path, "it has no history")
            self._state = State(*last)
        return self._state

    def changing(self) -> bool:
        """Whether what is read has not been committed."""
        return False

    def _knows(self, state: State) -> bool:
        asked = "SELECT 1 FROM changes WHERE revision = ? AND token = ?"
        return self.connection.execute(asked, state).fetchone() is not None

    def _gone_since(self, contract: Contract, state: State) -> Ids:
        rows = self.connection.execute(
            "SELECT id FROM past WHERE ended > ? AND contract_id = ? ORDER BY id",
            (state.revision, contract.id),
        )
        return np.fromiter((id for (id,) in rows), dtype=np.int64)

    def searched_by(self) -> str:
        """Return that all rows are compared."""
        return "exact"

    def faults(self, progress: Tick | None = None) -> list[str]:
        """Return all that is wrong with the file and what it holds."""
        changed: list[str] = []
        found, done = database.faults_of(self.connection), 0
        self.query_model(), self.edges()
        rows = sum(stored.rows for stored in self.contracts())
        texts = self.connection.execute("SELECT json FROM contracts ORDER BY id").fetchall()
        for contract in [self._record(Contract, text) for (text,) in texts]:
            for block in self._blocks(contract, 0, changed):
                done += len(block.ids)
                if progress:
                    progress(done, rows)
            for _ in self._blocks(contract, 0, changed, "past"):
                pass
        return found + [f"the item {key!r} is not as it was enrolled" for key in changed]
