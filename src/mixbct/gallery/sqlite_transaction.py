"""Changing an SQLite gallery: rows and edges that are replaced become history, in one transaction.

Each transaction that changes something has a revision of its own, ascending in the order of their
commits: what begins or ends with it says so, and what was present just before a switch is what
began earlier and ended with it or later.
"""

import json
import secrets
import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mixbct.errors import GalleryError
from mixbct.gallery import database
from mixbct.gallery.records import Switch
from mixbct.gallery.sqlite_shared import Key, Shared, State, file_name, keys_from
from mixbct.gallery.sqlite_snapshot import BLOCK, LISTED, SqliteSnapshot
from mixbct.gallery.store import Tick
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge
from mixbct.schemas.record import now

_AT_ONCE = 256  # rows a statement: it costs as much as a row does
_STATES = 100_000  # an index that has seen none of so many changes is built anew


class SqliteTransaction(SqliteSnapshot):
    """See `store.Transaction`."""

    def __init__(self, connection: sqlite3.Connection, path: Path, shared: Shared) -> None:
        super().__init__(connection, path, shared)
        self._revision = 0

    def changing(self) -> bool:
        """Whether something was changed."""
        return self._revision > 0

    def _change(self) -> int:
        """Return the revision of this transaction."""
        if not self._revision:
            token = secrets.token_hex(8)
            cursor = self.connection.execute("INSERT INTO changes (token) VALUES (?)", (token,))
            self._revision = cursor.lastrowid or 0
            self.connection.execute(
                "DELETE FROM changes WHERE revision <= ?", (self._revision - _STATES,)
            )
        return self._revision

    def _add_contract(self, contract: Contract) -> None:
        self.connection.execute(
            "INSERT OR IGNORE INTO contracts (id, json) VALUES (?, ?)",
            (contract.id, contract.model_dump_json()),
        )

    def put(
        self,
        keys: Sequence[str],
        labels: Sequence[str | None],
        contract: Contract,
        vectors: Float32[np.ndarray, "n d"],
        progress: Tick | None = None,
    ) -> list[str]:
        """Add rows in place of those of the same keys; return the keys that had one."""
        self._change()
        self._add_contract(contract)
        replaced: list[str] = []
        for start in range(0, len(keys), BLOCK):
            part = slice(start, start + BLOCK)
            names, content = keys[part], vectors[part].astype("<f4", order="C").tobytes()
            size = 4 * contract.dim
            blobs = [content[at : at + size] for at in range(0, len(content), size)]
            rows = [*zip(names, labels[part], blobs, strict=True)]
            last = self.connection.execute("SELECT max(id) FROM items").fetchone()[0] or 0
            if self._insert(rows, contract.id) < len(rows):
                held = {key: id for key, id in self.ids(names).items() if id <= last}
                self._end(held.values())
                self._insert([row for row in rows if row[0] in held], contract.id)
                replaced += held
            if progress:
                progress(start + len(blobs), len(keys))
        self._count({contract.id: len(keys)})
        return replaced

    def _insert(self, rows: list[tuple[str, str | None, bytes]], id: str) -> int:
        """Add (key, label, vector) of a contract, but for keys that have a row; return how many."""
        digest, added = database.digest_of, 0
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            given: list[str | bytes | int | None] = [id, now(), self._revision]
            for key, label, blob in some:
                given += key, label, digest(key, label, id, blob), blob
            added += self.connection.execute(
                "INSERT INTO items (contract_id, time, revision, key, label, digest, vector) "
                f"SELECT ?, ?, ?, * FROM (VALUES {', '.join(['(?, ?, ?, ?)'] * len(some))}) "
                "WHERE true ON CONFLICT (key) DO NOTHING",
                given,
            ).rowcount
        return added

    def remove(self, keys: Collection[str]) -> list[str]:
        """Take rows away; return the keys that had one."""
        found = self.ids(keys)
        self._end(found.values())
        return list(found)

    def _end(self, ids: Collection[int]) -> None:
        """Make history of present rows; a damaged one is not kept."""
        if not ids:
            return
        asked = json.dumps(list(ids))
        self.connection.execute(
            "INSERT INTO past SELECT id, key, label, contract_id, time, revision, ?, ?, digest, "
            f"vector FROM items WHERE id {LISTED} "
            "AND digest = digest_of(key, label, contract_id, vector)",
            (self._change(), now(), asked),
        )
        gone = self.connection.execute(
            f"DELETE FROM items WHERE id {LISTED} RETURNING contract_id", (asked,)
        ).fetchall()
        self._count({name: -count for (name,), count in Counter(gone).items()})

    def _count(self, more: dict[str, int]) -> None:
        self.connection.executemany(
            "UPDATE contracts SET rows = rows + ? WHERE id = ?",
            ((count, name) for name, count in more.items()),
        )

    def count_hits(self, counts: Mapping[str, int]) -> None:
        """Add to how often items were found."""
        self.connection.executemany(
            "INSERT INTO hits VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET count = count + excluded.count",
            counts.items(),
        )

    def forget_hits(self) -> None:
        """Forget how often items were found."""
        self.connection.execute("DELETE FROM hits")

    def add_edge(self, edge: Edge) -> None:
        """Record an edge in place of one between the same two."""
        self._add_contract(edge.from_contract)
        self._add_contract(edge.to_contract)
        ends = edge.from_contract.id, edge.to_contract.id
        text = edge.model_dump_json()
        self._put_edge(*ends, database.digest_of(*ends, text, b""), text)

    def _put_edge(self, from_id: str, to_id: str, digest: int, text: str) -> None:
        revision = self._change()
        self.connection.execute(
            "UPDATE edges SET ended = ? WHERE from_id = ? AND to_id = ? AND ended IS NULL",
            (revision, from_id, to_id),
        )
        self.connection.execute(
            "INSERT INTO edges (from_id, to_id, revision, digest, json) VALUES (?, ?, ?, ?, ?)",
            (from_id, to_id, revision, digest, text),
        )

    def switch(self, switch: Switch) -> None:
        """Record a switch; index files that neither it nor the way back needs are given up."""
        model, revision = switch.model, self._change()
        self._add_contract(model.contract)
        self.connection.execute(
            "INSERT INTO switches VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                switch.number,
                revision,
                model.contract.id,
                str(model.folder) if model.folder else None,
                switch.time,
                switch.before,
                switch.restores,
            ),
        )
        back = [each.model for each in self.switches() if each.number == switch.before]
        ended = self.connection.execute("SELECT json FROM edges WHERE ended = ?", (revision,))
        edges = [*self.edges(), *(self._record(Edge, text) for (text,) in ended.fetchall())]
        needed = {key for each in (model, *back) for key in keys_from(each.contract, edges)}
        caches = self.connection.execute("SELECT contract_id, side FROM caches").fetchall()
        self.connection.executemany(
            "DELETE FROM caches WHERE contract_id = ? AND side = ?",
            [key for key in caches if key not in needed],
        )

    def restore(self, switch: int, keep: Contract) -> list[str]:
        """Give what was replaced since a switch back what it was just before."""
        found = self.connection.execute(
            "SELECT revision FROM switches WHERE number = ?", (switch,)
        ).fetchone()
        if found is None:
            raise GalleryError(f"{self._path} knows of no switch {switch}; its history was pruned")
        then = found[0]
        # by what has ended since: not every present row is looked at
        pairs = self.connection.execute(
            "SELECT items.key, items.id, past.id FROM past CROSS JOIN items USING (key) "
            "WHERE past.ended >= ? AND past.revision < ? AND items.contract_id != ? AND "
            "(items.contract_id, items.label, items.vector) IS NOT "
            "(past.contract_id, past.label, past.vector) ORDER BY items.key",
            (then, then, keep.id),
        ).fetchall()
        revision, time = self._change(), now()
        self._end([present for _, present, _ in pairs])
        gave = self.connection.execute(
            "INSERT INTO items (key, label, contract_id, time, revision, digest, vector) "
            "SELECT key, label, contract_id, ?, ?, digest, vector FROM past "
            f"WHERE id {LISTED} ORDER BY id RETURNING contract_id",
            (time, revision, json.dumps([past for _, _, past in pairs])),
        ).fetchall()
        self._count({name: count for (name,), count in Counter(gave).items()})
        for edge in self.connection.execute(
            "SELECT from_id, to_id, digest, json FROM edges WHERE ended >= ? AND revision < ?",
            (then, then),
        ).fetchall():
            self._put_edge(*edge)
        return [key for key, _, _ in pairs]

    def prune(self) -> int:
        """Forget the history."""
        # an index of the state before is followed, unless it was changed in here
        before = 0 if self._revision else self.state().revision
        self._change()
        removed = self.connection.execute("DELETE FROM past").rowcount
        self.connection.execute("DELETE FROM edges WHERE ended IS NOT NULL")
        self.connection.execute(
            "DELETE FROM switches WHERE number < (SELECT max(number) FROM switches)"
        )
        self.connection.execute("UPDATE switches SET before = NULL, restores = NULL")
        self.connection.execute(
            "DELETE FROM changes WHERE revision NOT IN (?, ?)", (before, self._revision)
        )
        return removed

    def set_cache(self, key: Key, rows: int, sha256: str, state: State) -> None:
        """Record what the cache file of an index holds."""
        self.connection.execute(
            "INSERT OR REPLACE INTO caches VALUES (?, ?, ?, ?, ?, ?)", (*key, rows, sha256, *state)
        )

    def cache_names(self) -> set[str]:
        """Return the names of the cache files that are of use; others are told of no more."""
        self.connection.execute(
            "DELETE FROM caches WHERE contract_id IN (SELECT id FROM contracts WHERE rows = 0)"
        )
        keys = self.connection.execute("SELECT contract_id, side FROM caches").fetchall()
        return {file_name(key) for key in keys}
