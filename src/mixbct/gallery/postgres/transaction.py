"""What is changed of a gallery in PostgreSQL, all of it or nothing."""

import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

import numpy as np
from jaxtyping import Float32, Int64

from mixbct.errors import GalleryError
from mixbct.features.bridged import through
from mixbct.gallery.postgres import tables
from mixbct.gallery.postgres.derive import forget, index
from mixbct.gallery.postgres.snapshot import BLOCK, Snapshot, checksum
from mixbct.gallery.records import Ids, RowBlock, Switch
from mixbct.gallery.rules import side_of
from mixbct.gallery.store import Tick
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import Contract
from mixbct.schemas.record import now

_COPY: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)


class Transaction(Snapshot):
    """A state of the gallery that is being changed (`store.Transaction`)."""

    _changes = True
    _revision: int | None = None

    def changing(self, ids: int = 0) -> tuple[int, int]:
        """Return this transaction's revision, and the first of so many new ids."""
        first, more = self.facts.last_id + 1, self._revision is None
        [(self._revision,)] = self.do(
            "UPDATE gallery SET revision = revision + %s, token = %s, last_id = last_id + %s "
            "RETURNING revision",
            *(int(more), secrets.token_hex(8), ids),
        )
        if more:
            self.do("INSERT INTO changes VALUES (%s, %s, %s)", self._revision, now(), first)
        self._facts = None
        return self._revision, first

    def record(self, contract: Contract) -> int:
        """Return a contract's number; one that is new is recorded, and has a table made."""
        if contract.id not in self.facts.contracts:
            number, text = len(self.facts.contracts) + 1, contract.model_dump_json()
            self.do("INSERT INTO contracts VALUES (%s, %s, %s, 0)", number, contract.id, text)
            tables.create_vectors(self.connection, f"vectors_{number}", contract.dim)
            index(self, f"vectors_{number}", contract.dim)
            self.changing()
        return self.facts.contracts[contract.id][0]

    def put(
        self,
        keys: Sequence[str],
        labels: Sequence[str | None],
        contract: Contract,
        vectors: Float32[np.ndarray, "n d"],
        progress: Tick | None = None,
    ) -> list[str]:
        """Add rows in place of those of the same keys; return the keys that had one."""
        from psycopg.errors import UniqueViolation

        number = self.record(contract)
        revision, first = self.changing(len(keys))
        follow = "SELECT name, json FROM derived WHERE contract = %s AND name LIKE 'mapped%%'"
        followed = [(name, self.parsed(LinearMap, text)) for name, text in self.do(follow, number)]
        starts = range(0, len(keys), BLOCK)

        def blocks(tick: Tick | None = None) -> Iterator[RowBlock]:
            for start in starts:
                part = slice(start, start + BLOCK)
                ids = np.arange(first + start, first + start + len(keys[part]))
                yield RowBlock(ids, list(keys[part]), list(labels[part]), vectors[part])
                if tick:
                    tick(start + len(ids), len(keys))

        def copied() -> bool:
            """Return whether all are new: to look for each of them first takes a third longer."""
            try:
                with self.connection.transaction():
                    self._copy("items", (_lines(block, number, contract.id) for block in blocks()))
            except UniqueViolation:
                return False
            return True

        replaced = []
        if self.ids(keys[:256]) or not copied():
            for start in starts:
                replaced += self._take(keys[start : start + BLOCK], revision)
            self._copy("items", (_lines(block, number, contract.id) for block in blocks()))
        self.copy_vectors(f"vectors_{number}", ((b.ids, b.vectors) for b in blocks(progress)))
        for name, side in followed:
            mapped = ((b.ids, through(side, b.vectors, b.keys)) for b in blocks())
            self.copy_vectors(name, mapped)
        self.do("UPDATE contracts SET rows = rows + %s WHERE number = %s", len(keys), number)
        self._facts = None
        return replaced

    def _copy(self, into: str, parts: Iterable[bytes], how: str = "") -> None:
        from psycopg.copy import QueuedLibpqWriter

        cursor = self.connection.cursor()
        # its thread sends while this one makes what comes next
        writer = QueuedLibpqWriter(cursor)
        with cursor.copy(f"COPY {into} FROM STDIN {how}".encode(), writer=writer) as copy:
            for part in parts:
                copy.write(part)

    def copy_vectors(
        self, table: str, blocks: Iterable[tuple[Int64[np.ndarray, " _"], np.ndarray]]
    ) -> None:
        """Send rows in the server's binary form, which takes a tenth of the time of text."""
        parts = (_binary(ids, vectors) for ids, vectors in blocks)
        self._copy(table, chain([_COPY], parts, [b"\xff\xff"]), "BINARY")

    def _take(self, keys: Sequence[str], revision: int) -> list[str]:
        """Make the rows of some keys history; return the keys that had one."""
        there = self.ids(keys)
        if not there:
            return []
        ids = list(there.values())
        tables = [f"vectors_{number}" for number, _, rows in self.facts.contracts.values() if rows]
        taken = ", ".join(
            f"{name} AS (DELETE FROM {name} v WHERE id = ANY(%(ids)s) RETURNING id, vector::vector)"
            for name in tables
        )
        vectors = " UNION ALL ".join(f"SELECT * FROM {name}" for name in tables)
        counts = self.do(
            f"WITH gone AS (DELETE FROM items WHERE id = ANY(%(ids)s) RETURNING *), {taken}, "
            "kept AS (INSERT INTO past SELECT g.*, %(revision)s, vector FROM gone g "
            f"JOIN ({vectors}) v USING (id) RETURNING contract) "
            "SELECT contract, count(*) FROM kept GROUP BY 1",
            **{"ids": ids, "revision": revision},
        )
        if sum(count for _, count in counts) != len(there):
            raise self.damaged("items are there whose vectors are not")
        for each in self.facts.derived.values():
            if each.name.startswith("mapped_"):
                self.do(f"DELETE FROM {each.name} WHERE id = ANY(%s)", ids)
        for number, count in counts:
            self.do("UPDATE contracts SET rows = rows - %s WHERE number = %s", count, number)
        self._facts = None
        return list(there)

    def remove(self, keys: Collection[str]) -> list[str]:
        """Take rows away; return the keys that had one."""
        revision, _ = self.changing()
        every, taken = list(keys), []
        for start in range(0, len(every), BLOCK):
            taken += self._take(every[start : start + BLOCK], revision)
        return taken

    def count_hits(self, counts: Mapping[str, int]) -> None:
        """Add to how often items were found."""
        self.do(
            "INSERT INTO hits AS h SELECT * FROM unnest(%s::text[], %s::bigint[]) "
            "ON CONFLICT (key) DO UPDATE SET count = h.count + excluded.count",
            *(list(counts), list(counts.values())),
        )

    def forget_hits(self) -> None:
        """Forget how often items were found."""
        self.do("DELETE FROM hits")

    def add_edge(self, edge: Edge) -> None:
        """Record an edge in place of one between the same two."""
        ends = edge.from_contract, edge.to_contract
        source, target = map(self.record, ends)
        revision, _ = self.changing()
        text, same = edge.model_dump_json(), f"source = {source} AND target = {target}"
        # one that was recorded in this same transaction never was
        self.do(f"DELETE FROM edges WHERE {same} AND since = %s", revision)
        self.do(f"UPDATE edges SET until = %s WHERE {same} AND until IS NULL", revision)
        digest = checksum(ends[0].id, ends[1].id, text, b"")
        row = source, target, revision, None, text, digest
        self.do("INSERT INTO edges VALUES (%s, %s, %s, %s, %s, %s)", *row)

    def switch(self, switch: Switch) -> None:
        """Record a switch; mapped rows that neither it nor the one before needs are forgotten."""
        number = self.record(switch.model.contract)
        revision, _ = self.changing()
        folder = str(switch.model.folder) if switch.model.folder else None
        self.do(
            "INSERT INTO switches VALUES (%s, %s, %s, %s, %s, %s, %s)",
            *(switch.number, revision, number, folder),
            *(switch.time, switch.before, switch.restores),
        )
        models = [s.model.contract for s in self.switches() if s.number == switch.before]
        models.append(switch.model.contract)
        needed = {(self.number(model), "") for model in models}
        for edge in self.edges():
            if edge.from_contract in models:
                side = side_of(edge)
                needed.add((self.number(edge.to_contract), side.digest if side else ""))
        for place, each in list(self.facts.derived.items()):
            if place not in needed:
                forget(self, each)
        self._facts = None

    def restore(self, switch: int, keep: Contract) -> list[str]:
        """Give items and edges that were replaced since a switch back what they were then."""
        found = self.do(
            "SELECT s.revision, first_id FROM switches s JOIN changes c "
            "ON c.revision = s.revision WHERE number = %s",
            switch,
        )
        if not found:
            raise GalleryError(f"{self._store.place} does not know switch {switch} any more")
        [(then, first)] = found
        edges = "SELECT json FROM edges WHERE since < %s AND until >= %s"
        for (text,) in self.do(edges, then, then):
            self.add_edge(self.parsed(Edge, text))
        numbers = {number: contract for number, contract, _ in self.facts.contracts.values()}
        restored: list[str] = []
        after = 0
        # items are looked up one by one, however many the server thinks there are
        query = (
            "SELECT p.id, p.key, p.label, p.contract, p.digest, p.vector, i.id FROM past p "
            "JOIN LATERAL (SELECT id, contract FROM items WHERE key = p.key OFFSET 0) i "
            "ON i.contract <> %s WHERE p.id > %s AND p.id < %s AND p.until >= %s "
            f"ORDER BY p.id LIMIT {BLOCK}"
        )
        number = self.record(keep)
        while rows := self.do(query, number, after, first, then):
            after = rows[-1][0]
            present = self._rows([row[-1] for row in rows])
            for number_then, contract in numbers.items():
                here = {row[0]: row[-1] for row in rows if row[3] == number_then}
                before = self._checked((row[:-1] for row in rows if row[0] in here), contract.id)
                changed = []
                for id, key, label, vector in before:
                    item, now_there = present[here[id]]
                    same = item == (key, label, contract.id) and np.array_equal(vector, now_there)
                    changed += [] if same else [(key, label, vector)]
                if changed:
                    keys, labels, vectors = zip(*changed, strict=True)
                    restored += self.put(keys, labels, contract, np.stack(vectors))
        return sorted(restored)

    def prune(self) -> int:
        """Forget the history; return how many versions of items went."""
        self.changing()
        [(versions,)] = self.do("SELECT count(*) FROM past")
        self.do("DELETE FROM past")
        self.do("DELETE FROM edges WHERE until IS NOT NULL")
        self.do("DELETE FROM switches WHERE number < (SELECT max(number) FROM switches)")
        self.do("UPDATE switches SET before = NULL")
        self._facts = None
        return int(versions)

    def prepare_beside(self, contract: Contract, side: LinearMap | None) -> None:
        """Build nothing: who writes would wait for itself."""


def _lines(rows: RowBlock, number: int, contract_id: str) -> bytes:
    """Return rows of `items` as COPY takes them."""
    contents = [row.tobytes() for row in rows.vectors.astype("<f4", copy=False)]
    named = zip(rows.ids.tolist(), rows.keys, rows.labels, contents, strict=True)
    return "".join(
        f"{id}\t{_escaped(key)}\t{_escaped(label)}\t{number}\t"
        f"{checksum(key, label, contract_id, content)}\n"
        for id, key, label, content in named
    ).encode()


def _binary(ids: Ids, vectors: Float32[np.ndarray, "n d"]) -> bytes:
    """Return ids and vectors in the server's binary form: sizes before values, big-endian."""
    dim = vectors.shape[1]
    fields = [("fields", ">i2"), ("size", ">i4"), ("id", ">i8"), ("bytes", ">i4")]
    rows = np.zeros(len(ids), [*fields, ("dim", ">i2"), ("0", ">i2"), ("vector", ">f4", dim)])
    rows["fields"], rows["size"], rows["bytes"], rows["dim"] = 2, 8, 4 + 4 * dim, dim
    rows["id"], rows["vector"] = ids, vectors
    return rows.tobytes()


def _escaped(text: str | None) -> str:
    """Return text as a field of COPY."""
    if text is None:
        return "\\N"
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\r", "\\r")
