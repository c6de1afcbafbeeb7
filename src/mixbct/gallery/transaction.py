"""What is changed of a gallery, all of it or nothing: what is replaced becomes history."""

import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from mixbct.errors import GalleryError
from mixbct.features.bridged import through
from mixbct.gallery.facts import Known
from mixbct.gallery.records import Ids, Switch, Tick
from mixbct.gallery.snapshot import BLOCK, Snapshot
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import Contract
from mixbct.schemas.record import now

_PART: Final = 1024
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
        digests: list[int] = []

        def mapped(side: LinearMap | None) -> Iterator[tuple[Ids, np.ndarray]]:
            for part in parts:
                yield ids[part], through(side, vectors[part], keys[part])
                if side is None:  # made while the database stores those vectors
                    rows = zip(keys[part], labels[part], vectors[part], strict=True)
                    digests.extend(checksum(k, name, of, v.tobytes()) for k, name, v in rows)
                    if progress:
                        progress(len(digests), len(keys))

        def items() -> Iterator[list[tuple[Any, ...]]]:
            for part in parts:
                names = ids[part].tolist(), keys[part], labels[part]
                yield [*zip(*names, repeat(known.number), digests[part], strict=False)]

        for table, side in [(known.table, None), *self.database.followed(self, known)]:
            self.database.add_vectors(self.connection, table, mapped(side))
        replaced = []
        if self.ids(keys[:256]) or not self._added(items()):
            for part in parts:
                replaced += self._take(keys[part], revision)
            self.database.add_items(self.connection, items())
        self.do("UPDATE contracts SET rows = rows + %s WHERE number = %s", len(keys), known.number)
        self._facts = None
        return replaced

    def _added(self, items: Iterable[list[tuple[Any, ...]]]) -> bool:
        """Return whether all are new: to look for each of them first takes a third longer."""
        self.do("SAVEPOINT before")
        try:
            self.database.add_items(self.connection, items)
        except self.database.taken:
            self.do("ROLLBACK TO SAVEPOINT before")
            return False
        self.do("RELEASE SAVEPOINT before")
        return True

    def _take(self, keys: Sequence[str], revision: int) -> list[str]:
        """Make the rows of some keys history; return the keys that had one."""
        there = self.ids(keys)
        ids, taken = sorted(there.values()), 0  # as they lie
        for known in self.facts.contracts.values() if ids else ():
            self.do(
                "INSERT INTO past SELECT i.id, key, label, contract, digest, %s, vector FROM "
                f"items i JOIN {known.table} v ON v.id = i.id WHERE i.id = ANY(%s) "
                f"AND contract = %s{self.database.whole}",
                *(revision, ids, known.number),
            )
            # where it lies, whatever a damaged item says
            gone = len(self.do(f"DELETE FROM {known.table} WHERE id = ANY(%s) RETURNING id", ids))
            self.do("UPDATE contracts SET rows = rows - %s WHERE number = %s", gone, known.number)
            taken += gone
        if taken != len(ids):
            raise self.damaged("items are there whose vectors are not")
        if ids:
            self.do("DELETE FROM items WHERE id = ANY(%s)", ids)
            for made in self.facts.derived.values():
                if made.is_table:
                    self.do(f"DELETE FROM {made.name} WHERE id = ANY(%s)", ids)
            self._facts = None
        return list(there)

    def remove(self, keys: Collection[str]) -> list[str]:
        """Take rows away, which become history; return the keys that had one, in their order."""
        revision, _ = self.changing()
        every, taken = list(keys), []
        for start in range(0, len(every), BLOCK):
            taken += self._take(every[start : start + BLOCK], revision)
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
            "SELECT id, key, label, contract, digest, vector FROM past "
            f"WHERE until >= %s AND id > %s AND id < %s ORDER BY id LIMIT {BLOCK}"
        )
        items = "SELECT key, id, label, contract FROM items WHERE key = ANY(%s) AND contract <> %s"
        while rows := self.do(past, then, after, first):
            after = rows[-1][0]
            present = {row[0]: row[1:] for row in self.do(items, [row[1] for row in rows], kept)}
            for known in contracts:
                before = self.checked(
                    [row for row in rows if row[3] == known.number and row[1] in present],
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
