"""What is changed of a gallery in PostgreSQL, all of it or nothing."""

import secrets
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float32, Int64

from mixbct.errors import GalleryError
from mixbct.features.bridged import through
from mixbct.gallery.postgres import tables
from mixbct.gallery.postgres.snapshot import BLOCK, HNSW, Snapshot, checksum, indexed
from mixbct.gallery.records import RowBlock, Switch
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

    def _changing(self, ids: int = 0) -> tuple[int, int]:
        """Return this transaction's revision, and the first of so many new ids."""
        first = self.facts.last_id + 1
        more = self._revision is None
        [(self._revision,)] = self._do(
            "UPDATE gallery SET revision = revision + %s, token = %s, last_id = last_id + %s "
            "RETURNING revision",
            int(more),
            secrets.token_hex(8),
            ids,
        )
        if more:
            self._do("INSERT INTO changes VALUES (%s, %s, %s)", self._revision, now(), first)
        self._facts = None
        return self._revision, first

    def _number(self, contract: Contract) -> int:
        """Return a contract's number; one that is new is recorded, and has a table made."""
        if contract.id not in self.facts.contracts:
            number, text = len(self.facts.contracts) + 1, contract.model_dump_json()
            self._do("INSERT INTO contracts VALUES (%s, %s, %s, 0)", number, contract.id, text)
            tables.create_vectors(self._connection, f"vectors_{number}", contract.dim)
            self._index(f"vectors_{number}", contract.dim)
            self._changing()
        return self.facts.contracts[contract.id][0]

    def _index(self, table: str, dim: int) -> None:
        """Build the HNSW index of a table, or take it away, as the gallery is searched."""
        if self.facts.searched_by == HNSW:
            expression, kind = indexed(dim)[0], "halfvec" if dim > 2000 else "vector"
            self._do(
                f"CREATE INDEX IF NOT EXISTS {table}_hnsw ON {table} "
                f"USING hnsw ({expression} {kind}_ip_ops)"
            )
        else:
            self._do(f"DROP INDEX IF EXISTS {table}_hnsw")

    def put(
        self,
        keys: Sequence[str],
        labels: Sequence[str | None],
        contract: Contract,
        vectors: Float32[np.ndarray, "n d"],
        progress: Tick | None = None,
    ) -> list[str]:
        """Add rows in place of those of the same keys; return the keys that had one."""
        number = self._number(contract)
        empty = not any(rows for _, _, rows in self.facts.contracts.values())
        revision, first = self._changing(len(keys))
        followed = [
            (name, self._record(LinearMap, text))
            for name, text in self._do("SELECT name, json FROM derived WHERE contract = %s", number)
        ]
        replaced = []
        for start in range(0, len(keys), BLOCK):
            part = slice(start, start + BLOCK)
            replaced += [] if empty else self._take(keys[part], revision)
            ids = np.arange(first + start, first + start + len(keys[part]))
            block = RowBlock(ids, list(keys[part]), list(labels[part]), vectors[part])
            self._copy_items(block, number, contract.id)
            self._copy_vectors(f"vectors_{number}", ids, block.vectors)
            for name, side in followed:
                self._copy_vectors(name, ids, through(side, block.vectors, block.keys))
            if progress:
                progress(start + len(ids), len(keys))
        self._do("UPDATE contracts SET rows = rows + %s WHERE number = %s", len(keys), number)
        self._facts = None
        return replaced

    def _copy_items(self, rows: RowBlock, number: int, contract_id: str) -> None:
        contents = [row.tobytes() for row in rows.vectors.astype("<f4", copy=False)]
        named = zip(rows.ids.tolist(), rows.keys, rows.labels, contents, strict=True)
        lines = [
            f"{id}\t{_escaped(key)}\t{_escaped(label)}\t{number}\t"
            f"{checksum(key, label, contract_id, content)}\n"
            for id, key, label, content in named
        ]
        with self._connection.cursor().copy("COPY items FROM STDIN") as copy:
            copy.write("".join(lines))

    def _copy_vectors(
        self, table: str, ids: Int64[np.ndarray, " n"], vectors: Float32[np.ndarray, "n d"]
    ) -> None:
        """Send rows in the server's binary form, which takes a tenth of the time of text."""
        dim = vectors.shape[1]
        fields = [("fields", ">i2"), ("size", ">i4"), ("id", ">i8"), ("bytes", ">i4")]
        rows = np.zeros(len(ids), [*fields, ("dim", ">i2"), ("0", ">i2"), ("vector", ">f4", dim)])
        rows["fields"], rows["size"], rows["bytes"], rows["dim"] = 2, 8, 4 + 4 * dim, dim
        rows["id"], rows["vector"] = ids, vectors
        with self._connection.cursor().copy(f"COPY {table} FROM STDIN BINARY".encode()) as copy:
            copy.write(_COPY + rows.tobytes() + b"\xff\xff")

    def _take(self, keys: Sequence[str], revision: int) -> list[str]:
        """Make the rows of some keys history; return the keys that had one."""
        there = self.ids(keys)
        if not there:
            return []
        stored = [(number, rows) for number, _, rows in self.facts.contracts.values() if rows]
        takes, unions = [], []
        for number, _ in stored:
            takes.append(
                f"v{number} AS (DELETE FROM vectors_{number} v USING gone g WHERE v.id = g.id AND "
                f"g.contract = {number} RETURNING v.id, v.vector::vector)"
            )
            unions.append(f"SELECT * FROM v{number}")
        counts = self._do(
            f"WITH gone AS (DELETE FROM items WHERE id = ANY(%s) RETURNING *), {', '.join(takes)}, "
            "kept AS (INSERT INTO past SELECT g.*, %s, v.vector FROM gone g "
            f"JOIN ({' UNION ALL '.join(unions)}) v ON v.id = g.id RETURNING contract) "
            "SELECT contract, count(*) FROM kept GROUP BY 1",
            list(there.values()),
            revision,
        )
        if sum(count for _, count in counts) != len(there):
            raise self._damaged("items are there whose vectors are not")
        for each in self.facts.derived.values():
            self._do(f"DELETE FROM {each.name} WHERE id = ANY(%s)", list(there.values()))
        for number, count in counts:
            self._do("UPDATE contracts SET rows = rows - %s WHERE number = %s", count, number)
        self._facts = None
        return list(there)

    def remove(self, keys: Collection[str]) -> list[str]:
        """Take rows away; return the keys that had one."""
        revision, _ = self._changing()
        every, taken = list(keys), []
        for start in range(0, len(every), BLOCK):
            taken += self._take(every[start : start + BLOCK], revision)
        return taken

    def add_edge(self, edge: Edge) -> None:
        """Record an edge in place of one between the same two."""
        ends = edge.from_contract, edge.to_contract
        numbers = [self._number(contract) for contract in ends]
        revision, _ = self._changing()
        # one that was recorded in this same transaction never was
        self._do(
            "DELETE FROM edges WHERE source = %s AND target = %s AND since = %s",
            *numbers,
            revision,
        )
        self._do(
            "UPDATE edges SET until = %s WHERE source = %s AND target = %s AND until IS NULL",
            revision,
            *numbers,
        )
        text = edge.model_dump_json()
        digest = checksum(ends[0].id, ends[1].id, text, b"")
        self._do(
            "INSERT INTO edges VALUES (%s, %s, %s, NULL, %s, %s)", *numbers, revision, text, digest
        )

    def switch(self, switch: Switch) -> None:
        """Record a switch; mapped rows that neither it nor the one before needs are forgotten."""
        number = self._number(switch.model.contract)
        revision, _ = self._changing()
        self._do(
            "INSERT INTO switches VALUES (%s, %s, %s, %s, %s, %s, %s)",
            switch.number,
            revision,
            number,
            str(switch.model.folder) if switch.model.folder else None,
            switch.time,
            switch.before,
            switch.restores,
        )
        models = {s.model.contract.id for s in self.switches() if s.number == switch.before}
        models.add(switch.model.contract.id)
        needed = {
            (self._number(edge.to_contract), edge.bridge.gallery.digest)
            for edge in self.edges()
            if edge.from_contract.id in models and edge.bridge and edge.bridge.gallery
        }
        for place, each in self.facts.derived.items():
            if place not in needed:
                self._do("DELETE FROM derived WHERE name = %s", each.name)
        self._facts = None

    def restore(self, switch: int, keep: Contract) -> list[str]:
        """Give items and edges that were replaced since a switch back what they were then."""
        found = self._do(
            "SELECT s.revision, first_id FROM switches s JOIN changes c "
            "ON c.revision = s.revision WHERE number = %s",
            switch,
        )
        if not found:
            raise GalleryError(f"{self._store.place} does not know switch {switch} any more")
        [(then, first)] = found
        for (text,) in self._do(
            "SELECT json FROM edges WHERE since < %s AND until >= %s", then, then
        ):
            self.add_edge(self._record(Edge, text))
        numbers = {number: contract for number, contract, _ in self.facts.contracts.values()}
        restored: list[str] = []
        after = 0
        while rows := self._do(
            "SELECT p.id, p.key, p.label, p.contract, p.digest, p.vector FROM past p "
            "JOIN items i ON i.key = p.key WHERE p.id > %s AND p.id < %s AND p.until >= %s "
            "AND i.contract <> %s ORDER BY p.id LIMIT %s",
            after,
            first,
            then,
            self._number(keep),
            BLOCK,
        ):
            after = rows[-1][0]
            for number, contract in numbers.items():
                here = [row for row in rows if row[3] == number]
                if here:
                    checked = list(self._checked(here, contract.id))
                    _, keys, labels, vectors = zip(*checked, strict=True)
                    restored += self.put(keys, labels, contract, np.stack(vectors))
        return sorted(restored)

    def prune(self) -> int:
        """Forget the history; return how many versions of items went."""
        self._changing()
        [(versions,)] = self._do("SELECT count(*) FROM past")
        self._do("DELETE FROM past")
        self._do("DELETE FROM edges WHERE until IS NOT NULL")
        self._do("DELETE FROM switches WHERE number < (SELECT max(number) FROM switches)")
        self._do("UPDATE switches SET before = NULL")
        self._facts = None
        return int(versions)

    def derive(self, contract: Contract, side: LinearMap, progress: Tick | None) -> bool:
        """Make mapped rows, or some thousand more of them; return whether they are whole."""
        number = self._number(contract)
        known = self.facts.derived.get((number, side.digest))
        if known is None:
            name = f"mapped_{secrets.token_hex(6)}"
            tables.create_vectors(self._connection, name, side.target_dim)
            self._do(
                "INSERT INTO derived VALUES (%s, %s, %s, %s, 0, %s, 0)",
                name,
                number,
                side.digest,
                side.model_dump_json(),
                self.facts.last_id,
            )
        elif known.filled < known.last:
            block = next(self._blocks(contract, known.filled, known.last), None)
            filled = known.last
            if block:
                mapped = through(side, block.vectors, block.keys)
                self._copy_vectors(known.name, block.ids, mapped)
                filled = known.last if len(block.ids) < BLOCK else int(block.ids[-1])
            if filled >= known.last:
                self._index(known.name, side.target_dim)
            self._do("UPDATE derived SET filled = %s WHERE name = %s", filled, known.name)
            if progress:
                progress(filled, known.last)
        else:
            return True
        self._changing()
        return False

    def forget(self, contract: Contract, side: LinearMap) -> None:
        """Drop what is made of mapped rows."""
        place = self._number(contract), side.digest
        self._do("DELETE FROM derived WHERE contract = %s AND side = %s", *place)
        self._changing()

    def _prepare_beside(self, contract: Contract, side: LinearMap | None) -> None:
        """Build nothing: who writes would wait for itself."""

    def reindex(self, index: str) -> None:
        """Search by another index from now on, and build it."""
        self._do("UPDATE gallery SET index = %s", index)
        self._changing()
        for number, contract, _ in self.facts.contracts.values():
            self._index(f"vectors_{number}", contract.dim)
        dims = "SELECT name, (json::json->>'target_dim')::int FROM derived"
        for name, dim in self._do(dims):
            self._index(name, dim)


def _escaped(text: str | None) -> str:
    """Return text as a field of COPY."""
    if text is None:
        return "\\N"
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\r", "\\r")
