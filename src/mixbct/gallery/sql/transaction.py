"""What is changed of a gallery, all of it or nothing: what is replaced becomes history."""

import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from mixbct.errors import GalleryError
from mixbct.gallery.records import RowBlock, Switch
from mixbct.gallery.rules import side_of
from mixbct.gallery.sql.snapshot import BLOCK, Known, Snapshot
from mixbct.gallery.store import Tick
from mixbct.schemas.gate import Edge
from mixbct.schemas.model import Contract
from mixbct.schemas.record import now


class Transaction(Snapshot):
    """A state of the gallery that is being changed (`store.Transaction`)."""

    def changing(self, ids: int = 0) -> tuple[int, int]:
        """Return this transaction's revision, and the first of so many new ids."""
        [(last,)] = self.do("UPDATE gallery SET last_id = last_id + %s RETURNING last_id", ids)
        first = last - ids + 1
        if self.revision is None:
            self.revision = self.facts.state.revision + 1
            row = self.revision, now(), first, secrets.token_hex(8)
            self.do("INSERT INTO changes VALUES (%s, %s, %s, %s)", *row)
        self._facts = None
        return self.revision, first

    def record(self, contract: Contract) -> Known:
        """Return what is recorded of a contract; one that is new is, and has a table made."""
        if contract.id not in self.facts.contracts:
            number, text = len(self.facts.contracts) + 1, contract.model_dump_json()
            self.changing()
            self.do("INSERT INTO contracts VALUES (%s, %s, %s, 0)", number, contract.id, text)
            self.database.create_vectors(self, f"vectors_{number}", contract.dim)
        return self.facts.contracts[contract.id]

    def put(
        self,
        keys: Sequence[str],
        labels: Sequence[str | None],
        contract: Contract,
        vectors: Float32[np.ndarray, "n d"],
        progress: Tick | None = None,
    ) -> list[str]:
        """Add rows in place of those of the same keys; return the keys that had one."""
        known = self.record(contract)
        revision, first = self.changing(len(keys))
        vectors = vectors.astype("<f4", copy=False)
        starts = range(0, len(keys), BLOCK)

        def blocks(tick: Tick | None = None) -> Iterator[RowBlock]:
            for start in starts:
                part = slice(start, start + BLOCK)
                ids = np.arange(first + start, first + start + len(keys[part]))
                yield RowBlock(ids, list(keys[part]), list(labels[part]), vectors[part])
                if tick:
                    tick(start + len(ids), len(keys))

        def added() -> bool:
            """Return whether all are new: to look for each of them first takes a third longer."""
            self.do("SAVEPOINT before")
            try:
                self.database.add_items(self, known, blocks())
            except self.database.taken:
                self.do("ROLLBACK TO SAVEPOINT before")
                return False
            self.do("RELEASE SAVEPOINT before")
            return True

        replaced = []
        if self.ids(keys[:256]) or not added():
            for start in starts:
                replaced += self._take(keys[start : start + BLOCK], revision)
            self.database.add_items(self, known, blocks())
        self.database.add_vectors(self, known, blocks, progress)
        self.do("UPDATE contracts SET rows = rows + %s WHERE number = %s", len(keys), known.number)
        self._facts = None
        return replaced

    def _take(self, keys: Sequence[str], revision: int) -> list[str]:
        """Make the rows of some keys history; return the keys that had one."""
        there = self.ids(keys)
        ids = list(there.values())
        counts = "SELECT contract, count(*) FROM items WHERE id = ANY(%s) GROUP BY contract"
        for number, count in self.do(counts, ids) if ids else ():
            table = f"vectors_{number}"
            self.do(
                "INSERT INTO past SELECT i.id, key, label, contract, digest, %s, vector FROM "
                f"items i JOIN {table} v ON v.id = i.id WHERE i.id = ANY(%s){self.database.whole}",
                *(revision, ids),
            )
            gone = self.do(f"DELETE FROM {table} WHERE id = ANY(%s) RETURNING id", ids)
            if len(gone) != count:
                raise self.damaged("items are there whose vectors are not")
            self.do("UPDATE contracts SET rows = rows - %s WHERE number = %s", count, number)
        if ids:
            self.do("DELETE FROM items WHERE id = ANY(%s)", ids)
            self.database.take(self, ids)
            self._facts = None
        return list(there)

    def remove(self, keys: Collection[str]) -> list[str]:
        """Take rows away; return the keys that had one."""
        revision, _ = self.changing()
        every, taken = list(keys), []
        for start in range(0, len(every), BLOCK):
            taken += self._take(every[start : start + BLOCK], revision)
        self.do("DELETE FROM hits WHERE key = ANY(%s)", taken)
        return taken

    def add_edge(self, edge: Edge) -> None:
        """Record an edge in place of one between the same two."""
        ends = edge.from_contract, edge.to_contract
        source, target = (self.record(end).number for end in ends)
        revision, _ = self.changing()
        text, same = edge.model_dump_json(), f"source = {source} AND target = {target}"
        # one that was recorded in this same transaction never was
        self.do(f"DELETE FROM edges WHERE {same} AND since = %s", revision)
        self.do(f"UPDATE edges SET until = %s WHERE {same} AND until IS NULL", revision)
        digest = self.database.checksum(ends[0].id, ends[1].id, text, b"")
        row = source, target, revision, None, text, digest
        self.do("INSERT INTO edges VALUES (%s, %s, %s, %s, %s, %s)", *row)

    def switch(self, switch: Switch) -> None:
        """Record a switch; what is derived that neither it nor the way back needs is forgotten."""
        number = self.record(switch.model.contract).number
        revision, _ = self.changing()
        folder = str(switch.model.folder) if switch.model.folder else None
        self.do(
            "INSERT INTO switches VALUES (%s, %s, %s, %s, %s, %s, %s)",
            *(switch.number, revision, number, folder),
            *(switch.time, switch.before, switch.restores),
        )
        self._facts = None
        models = [each.model.contract for each in self.switches() if each.number == switch.before]
        models.append(switch.model.contract)
        ended = self.do("SELECT json FROM edges WHERE until = %s", revision)
        edges = [*self.edges(), *(self.parsed(Edge, text) for (text,) in ended)]
        self.database.keep(self, needed_by(models, edges))

    def restore(self, switch: int, keep: Contract) -> list[str]:
        """Give items and edges that were replaced since a switch back what they were then."""
        found = self.do(
            "SELECT s.revision, first_id FROM switches s JOIN changes c "
            "ON c.revision = s.revision WHERE number = %s",
            switch,
        )
        if not found:
            raise GalleryError(
                f"{self.database.file} knows of no switch {switch}; its history was pruned"
            )
        [(then, first)] = found
        edges = "SELECT json FROM edges WHERE since < %s AND until >= %s"
        for (text,) in self.do(edges, then, then):
            self.add_edge(self.parsed(Edge, text))
        contracts = list(self.facts.contracts.values())
        kept = self.record(keep).number
        restored: list[str] = []
        after = 0
        past = (
            "SELECT id, key, label, contract, digest, vector FROM past "
            f"WHERE until >= %s AND id > %s AND id < %s ORDER BY id LIMIT {BLOCK}"
        )
        items = "SELECT key, id, label, contract FROM items WHERE key = ANY(%s) AND contract <> %s"
        while rows := self.do(past, then, after, first):
            after = rows[-1][0]
            present = {row[0]: row[1:] for row in self.do(items, [row[1] for row in rows], kept)}
            for known in contracts:
                before = self.checked(
                    [row for row in rows if row[3] == known.number and row[1] in present], known
                )
                named = dict(zip(before.keys, before.labels, strict=True))
                alike = [
                    present[key][0]
                    for key, label in named.items()
                    if present[key][1:] == (label, known.number)
                ]
                same = self.vectors(alike)
                changed = [
                    place
                    for place, key in enumerate(before.keys)
                    if present[key][0] not in same
                    or not np.array_equal(same[present[key][0]], before.vectors[place])
                ]
                if changed:
                    keys = [before.keys[place] for place in changed]
                    labels = [before.labels[place] for place in changed]
                    restored += self.put(keys, labels, known.contract, before.vectors[changed])
        return sorted(restored)

    def prune(self) -> int:
        """Forget the history; return how many versions of items went."""
        # what was derived from the state before can be followed, unless that was changed in here
        before = self.revision or self.facts.state.revision
        self.changing()
        self.do("UPDATE changes SET token = '' WHERE revision < %s", before)
        [(versions,)] = self.do("SELECT count(*) FROM past")
        self.do("DELETE FROM past")
        self.do("DELETE FROM edges WHERE until IS NOT NULL")
        self.do("DELETE FROM switches WHERE number < (SELECT max(number) FROM switches)")
        self.do("UPDATE switches SET before = NULL, restores = NULL")
        self._facts = None
        return int(versions)

    def count_hits(self, counts: Mapping[str, int]) -> None:
        """Add to how often items were found; keys without a row are left out."""
        there = self.ids(counts)
        for key in there:
            self.do(
                "INSERT INTO hits VALUES (%s, %s) "
                "ON CONFLICT (key) DO UPDATE SET count = hits.count + excluded.count",
                *(key, counts[key]),
            )

    def forget_hits(self) -> None:
        """Count from nothing again."""
        self.do("DELETE FROM hits")


def needed_by(models: Collection[Contract], edges: Collection[Edge]) -> set[tuple[str, str]]:
    """Return what searches by some models compare: contract's id, and digest of the side or ''."""
    needed = {(model.id, "") for model in models}
    for edge in edges:
        if edge.from_contract in models:
            side = side_of(edge)
            needed.add((edge.to_contract.id, side.digest if side else ""))
    return needed
