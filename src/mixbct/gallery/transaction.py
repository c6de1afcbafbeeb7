"""What is changed of a gallery, all of it or nothing: what is replaced becomes history."""

import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, product
from typing import Final

import numpy as np
from jaxtyping import Float32

from mixbct.errors import GalleryError
from mixbct.features.bridged import through
from mixbct.gallery.facts import Known
from mixbct.gallery.records import Rows, Switch, Tick
from mixbct.gallery.snapshot import BLOCK, ROW, Snapshot
from mixbct.schemas.gate import Edge
from mixbct.schemas.model import Contract
from mixbct.schemas.record import now

_PART: Final = 256
"""Rows that are stored at a time: the database has some to do while the next are made ready."""


class Transaction(Snapshot):
    """A snapshot that can be changed: all of it is committed at the end, or on an error nothing.

    What it reads is the state with its own changes. One transaction at a time; snapshots go on
    beside it, and see it once it is committed.
    """

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
            self.database.create_rows(self, f"rows_{number}", contract.dim)
        return self.facts.contracts[contract.id]

    def put(
        self,
        keys: Sequence[str],
        labels: Sequence[str | None],
        contract: Contract,
        vectors: Float32[np.ndarray, "n d"],
        progress: Tick | None = None,
    ) -> list[str]:
        """Add n rows, in place of those of the same keys, which become history.

        Args:
            keys: no key twice.
            labels: class names; None: not known.
            contract: of the vectors; it is recorded where it is new.
            vectors: unit vectors.
            progress: called with (rows stored, n).

        Returns:
            The keys that had a row, in the order of `keys`. Whoever does not want to replace raises
            then, and nothing is stored.
        """
        known = self.record(contract)
        revision, first = self.changing(len(keys))
        keys, labels, vectors = list(keys), list(labels), vectors.astype("<f4", copy=False)
        ids, of, checksum = np.arange(first, first + len(keys)), contract.id, self.database.checksum
        parts = [slice(start, start + _PART) for start in range(0, len(keys), _PART)]

        def rows() -> Iterator[Rows]:  # made while the database stores those before
            for part in parts:
                names, some = (keys[part], labels[part]), vectors[part]
                each = zip(*names, some, strict=True)
                digests = [checksum(key, label, of, v.tobytes()) for key, label, v in each]
                yield ids[part].tolist(), *names, digests, some
                if progress:
                    progress(min(part.stop, len(keys)), len(keys))

        replaced: list[str] = []
        others = any(
            each.rows for each in self.facts.contracts.values() if each.number != known.number
        )
        if others or self.ids(keys[:256]) or not self._added(known, rows()):
            replaced = self._take(keys, revision)
            self.database.add_rows(self.connection, known.table, rows())
        for table, side in self.database.followed(self, known):
            mapped = ((ids[part], through(side, vectors[part], keys[part])) for part in parts)
            self.database.add_vectors(self.connection, table, mapped)
        self.do("UPDATE contracts SET rows = rows + %s WHERE number = %s", len(keys), known.number)
        self._facts = None
        return replaced

    def _added(self, known: Known, rows: Iterable[Rows]) -> bool:
        """Add rows if all are new, and say so: to look for each of them first is slower."""
        self.do("SAVEPOINT before")
        try:
            self.database.add_rows(self.connection, known.table, rows)
        except self.database.taken:
            self.do("ROLLBACK TO SAVEPOINT before")
            return False
        self.do("RELEASE SAVEPOINT before")
        return True

    def _take(self, keys: Sequence[str], revision: int) -> list[str]:
        """Make the rows of some keys history; return the keys that had one."""
        taken: set[str] = set()
        derived = self.facts.derived.items()
        tables = {known.number: known.table for known in self.facts.contracts.values()}
        for (number, table), start in product(tables.items(), range(0, len(keys), BLOCK)):
            some = list(keys[start : start + BLOCK])
            found = self.do(f"SELECT id, key FROM {table} WHERE key = ANY(%s)", some)
            if not found:
                continue
            ids = sorted(id for id, _ in found)  # as they lie
            self.do(
                f"INSERT INTO past SELECT id, key, label, {number}, digest, %s, vector "
                f"FROM {table} WHERE id = ANY(%s){self.database.whole.format(number)}",
                *(revision, ids),
            )
            mapped = [made.name for (of, _), made in derived if of == number and made.is_table]
            for name in [table, *mapped]:
                self.do(f"DELETE FROM {name} WHERE id = ANY(%s)", ids)
            self.do("UPDATE contracts SET rows = rows - %s WHERE number = %s", len(ids), number)
            taken.update(key for _, key in found)
        self._facts = None if taken else self._facts
        return [key for key in dict.fromkeys(keys) if key in taken]

    def remove(self, keys: Collection[str]) -> list[str]:
        """Take rows away, which become history; return the keys that had one, in their order."""
        revision, _ = self.changing()
        taken = self._take(list(keys), revision)
        self.do("DELETE FROM hits WHERE key = ANY(%s)", taken)
        return taken

    def add_edge(self, edge: Edge) -> None:
        """Record an edge and both contracts; an edge between the same two becomes history."""
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
        """Record a switch, from now on the present one, and the contract of its model.

        What a search of the model now present needs, and of the model that its `before` leads back
        to, is kept; what was prepared for others may be dropped.

        Args:
            switch: its number is that of the last switch and one.
        """
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

    def restore(self, switch: int, keep: Contract) -> tuple[list[str], list[str]]:
        """Give items and edges that were replaced since a switch back what they were before it.

        An item that had a row just before that switch's transaction, and has another one now that
        is not under `keep`, gets the earlier one as a new version: its label, contract and vector,
        to the bit; one that is the same again stays as it is. An edge that was recorded anew by
        that transaction or since, between the same two, is again what it was; one between others
        stays. Items removed since stay removed.

        Returns:
            The keys that were given back, sorted; and those whose earlier row is damaged, which
            stay as they are.

        Raises:
            GalleryError: that switch is no longer known.
        """
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
        restored, damaged, after = list[str](), list[str](), 0
        past = (
            f"SELECT {ROW}, contract FROM past "
            f"WHERE until >= %s AND id > %s AND id < %s ORDER BY id LIMIT {BLOCK}"
        )
        while rows := self.do(past, then, after, first):
            after = rows[-1][0]
            present = self.named([row[1] for row in rows])
            present = {key: row for key, row in present.items() if row[2] != kept}
            for known in contracts:
                before = self.checked(
                    [row for row in rows if row[5] == known.number and row[1] in present],
                    known,
                    damaged,
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
        return sorted(restored), damaged

    def prune(self) -> int:
        """Forget the history: all but present rows and edges, and the last switch.

        The last switch then has no `before`. Returns how many versions of items went.
        """
        # what was derived from the state before can be followed, unless that was changed in here
        before = self.revision or self.facts.state.revision
        self.changing()
        self.do("UPDATE changes SET token = '' WHERE revision < %s AND token <> ''", before)
        # what is left says since when each item is there
        last = "SELECT max(revision) FROM changes GROUP BY first_id"
        self.do(f"DELETE FROM changes WHERE revision < %s AND revision NOT IN ({last})", before)
        [(versions,)] = self.do("SELECT count(*) FROM past")
        self.do("DELETE FROM past")
        self.do("DELETE FROM edges WHERE until IS NOT NULL")
        self.do("DELETE FROM switches WHERE number < (SELECT max(number) FROM switches)")
        self.do("UPDATE switches SET before = NULL, restores = NULL")
        self.database.erase(self, before)
        self._facts = None
        return int(versions)

    def count_hits(self, counts: Mapping[str, int]) -> None:
        """Add to how often items were found, by key; keys that have no row are left out.

        An item that is replaced keeps its count, one that is removed loses it. Nothing that a
        search sees changes by it.
        """
        there = list(self.ids(counts))
        for start in range(0, len(there), 256):
            some = there[start : start + 256]
            self.do(
                f"INSERT INTO hits VALUES {', '.join(['(%s, %s)'] * len(some))} "
                "ON CONFLICT (key) DO UPDATE SET count = hits.count + excluded.count",
                *chain(*((key, counts[key]) for key in some)),
            )

    def forget_hits(self) -> None:
        """Count from nothing again."""
        self.do("DELETE FROM hits")


def needed_by(models: Collection[Contract], edges: Collection[Edge]) -> set[tuple[str, str]]:
    """Return what searches by some models compare: contract's id, and digest of the side or ''."""
    ids = {model.id for model in models}
    needed = {(id, "") for id in ids}
    for edge in edges:
        if edge.from_contract.id in ids:
            side = edge.bridge.gallery if edge.bridge else None
            needed.add((edge.to_contract.id, side.digest if side else ""))
    return needed
