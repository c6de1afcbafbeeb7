"""What is read of a gallery, all of it in one state, every row held to its checksum."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from jaxtyping import Float32
from pydantic import BaseModel, ValidationError

from mixbct.errors import GalleryError
from mixbct.gallery.facts import Asked, Facts, Known, State
from mixbct.gallery.records import Found, Item, QueryModel, RowBlock, Stored, Switch, Tick, Version
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import Contract
from mixbct.schemas.record import first_problem

if TYPE_CHECKING:
    from mixbct.gallery.store import Store

ModelT = TypeVar("ModelT", bound=BaseModel)
BLOCK: Final = 8192
ROW: Final = "id, key, label, digest, vector"


class Snapshot:
    """One committed state of a store, which does not change while it is looked at; for one thread.

    Whatever is read is checked: a row or record that is not as it was stored is a `GalleryError`
    that names it. It is made before its transaction begins.
    """

    revision: int | None = None
    """Of what was changed and is not committed; None: nothing was."""

    def __init__(self, store: "Store", connection: Any) -> None:
        self.store = store
        self.database = store.database
        self.connection = connection
        self.held: Any = self.database.held
        self._facts: Facts | None = None

    def do(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        return self.database.run(self.connection, query, values)

    @property
    def facts(self) -> Facts:
        """Read what is known of the gallery, where that is not of this state already."""
        if self._facts is None:
            last = self.do("SELECT revision, token FROM changes ORDER BY revision DESC LIMIT 1")
            if not last:
                raise self.damaged("it has no history")
            state, known = State(*last[0]), self.store.facts
            if known is None or known.state != state:
                known = self._read_facts(state)
                if self.revision is None:  # what is not committed is nobody else's
                    self.store.facts = known
            self._facts = known
        return self._facts

    def _read_facts(self, state: State) -> Facts:
        contracts = {
            id: Known(number, self.parsed(Contract, text), rows)
            for number, id, text, rows in self.do("SELECT * FROM contracts ORDER BY id")
        }
        by_number = {known.number: known.contract for known in contracts.values()}
        rows = self.do(
            "SELECT number, contract, folder, time, before, restores FROM switches ORDER BY 1"
        )
        if rows and rows[-1][1] not in by_number:
            raise self.damaged(f"switch {rows[-1][0]} names no model")
        switches = [
            Switch(number, QueryModel(by_number[n], Path(folder) if folder else None), *rest)
            for number, n, folder, *rest in rows
            if n in by_number
        ]
        [(by,)] = self.do("SELECT searched_by FROM gallery")
        return Facts(state, by, contracts, switches, self.database.derived(self))

    def parsed(self, model: type[ModelT], text: str) -> ModelT:
        """Read a record."""
        try:
            return model.model_validate_json(text)
        except (ValidationError, RecursionError) as problem:
            raise GalleryError(
                f"{self.database.file} holds a record ({model.__name__}) that this version of "
                f"mixbct cannot read: {first_problem(problem)}; use the version that wrote it, or "
                "a backup"
            ) from None

    def damaged(self, what: str) -> GalleryError:
        """Return the error about what was changed behind mixbct's back."""
        return GalleryError(f"{self.database.file} is damaged ({what}); restore it from a backup")

    def query_model(self) -> QueryModel:
        """Return the model that queries and enrols: that of the last switch."""
        return self.switches()[-1].model

    def switches(self) -> list[Switch]:
        """Return every switch since the last prune, oldest first; never empty."""
        if not self.facts.switches:
            raise self.damaged("it names no query model")
        return list(self.facts.switches)

    def edges(self) -> list[Edge]:
        """Return every recorded edge. The records are parsed once, not at every call."""
        present = self.do(
            "SELECT source, target, since, digest FROM edges WHERE until IS NULL ORDER BY 1, 2"
        )
        known = self.store.edges
        if not known.keys() >= set(present):
            known = {}
            for *place, text, source, target in self.do(
                "SELECT source, target, since, digest, e.json, s.id, t.id FROM edges e JOIN "
                "contracts s ON s.number = source JOIN contracts t ON t.number = target "
                "WHERE until IS NULL"
            ):
                if place[3] != self.database.checksum(source, target, text, b""):
                    raise self.damaged(f"the edge from {source} to {target} was changed")
                known[tuple(place)] = self.parsed(Edge, text)
            if not known.keys() >= set(present):
                raise self.damaged("an edge is of no contract")
            self.store.edges = known
        return [known[place] for place in present]

    def contracts(self) -> list[Stored]:
        """Return the contracts that have at least one row, by id, with how many they have."""
        known = self.facts.contracts.values()
        return [Stored(each.contract, each.rows) for each in known if each.rows]

    def known(self, contract: Contract) -> Known | None:
        """Return what is recorded of a contract, if it is and has rows."""
        known = self.facts.contracts.get(contract.id)
        return known if known and known.rows else None

    def ids(self, keys: Collection[str]) -> dict[str, int]:
        """Return the id of the present row of each key that has one, in the order of `keys`."""
        found = {key: id for key, (id, *_) in self.named(keys).items()}
        return {key: found[key] for key in keys if key in found}

    def named(self, keys: Collection[str]) -> dict[str, tuple[int, str | None, int]]:
        """Return id, label and contract's number of the present rows of some keys."""
        query, found = "SELECT key, id, label FROM {} WHERE key = ANY(%s)", {}
        for known in self.facts.contracts.values():
            for key, id, label in self.do(query.format(known.table), list(keys)):
                found[key] = id, label, known.number
        return found

    def items(self, ids: Collection[int]) -> dict[int, Item]:
        """Return key, label and contract of present rows, by id.

        Raises:
            GalleryError: an id has no present row.
        """
        return {id: item for id, (item, _) in self._rows(ids).items()}

    def vectors(self, ids: Collection[int]) -> dict[int, Float32[np.ndarray, " d"]]:
        """Return the stored vectors of present rows, by id; d is that of each row's contract.

        Raises:
            GalleryError: an id has no present row.
        """
        return {id: vector for id, (_, vector) in self._rows(ids).items()}

    def _rows(self, ids: Collection[int]) -> dict[int, tuple[Item, np.ndarray]]:
        wanted = sorted(set(map(int, ids)))
        found: dict[int, tuple[Item, np.ndarray]] = {}
        for known in self.facts.contracts.values():
            if not wanted or not known.rows:
                continue
            query, of = f"SELECT {ROW} FROM {known.table} WHERE id = ANY(%s)", known.contract.id
            block = self.checked(self.do(query, wanted), known)
            for id, key, label, vector in zip(block.ids.tolist(), *block[1:], strict=True):
                found[id] = Item(key, label, of), vector
        if missing := len(wanted) - len(found):
            raise self.damaged(f"{missing} rows of its index are not there")
        return found

    def checked(
        self, rows: list[tuple[Any, ...]], known: Known, wrong: list[str] | None = None
    ) -> RowBlock:
        """Return rows (id, key, label, checksum, vector) of a contract as they were stored.

        The keys of others go to `wrong`, or are an error.
        """
        id, dim = known.contract.id, known.contract.dim
        contents = [self.database.content(row[4]) for row in rows]
        none = bytes(4 * dim)  # has no norm
        vectors = np.frombuffer(
            b"".join(
                content
                if len(content) == len(none)
                and row[3] == self.database.checksum(row[1], row[2], id, content)
                else none
                for row, content in zip(rows, contents, strict=True)
            ),
            "<f4",
        )
        vectors = vectors.reshape(-1, dim).astype(np.float32, copy=False)
        squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
        fine = abs(squares - 1) < 1e-3
        if not fine.all():
            bad = [str(rows[place][1]) for place in np.flatnonzero(~fine)]
            if wrong is None:
                raise GalleryError(
                    f"{self.database.file} is damaged: the item {bad[0]!r} is not as it was "
                    f"enrolled; `mixbct gallery status {self.database.place} --verify` lists all "
                    "such items. Enrol them again (--replace), or restore a backup"
                )
            wrong += bad
            rows, vectors = (
                [row for row, good in zip(rows, fine, strict=True) if good],
                vectors[fine],
            )
        ids = np.array([row[0] for row in rows], np.int64)
        return RowBlock(ids, [row[1] for row in rows], [row[2] for row in rows], vectors)

    def blocks(
        self, contract: Contract, after: int = 0, last: int = 2**62, wrong: list[str] | None = None
    ) -> Iterator[RowBlock]:
        """Yield a contract's present rows with an id above `after`, by id, some thousand at a time.

        It streams: no more than a block is held in memory. It ends with the id `last`; for `wrong`
        see `checked`.
        """
        if (known := self.facts.contracts.get(contract.id)) is None:
            return
        query = f"SELECT {ROW} FROM {known.table} WHERE id > %s AND id <= %s ORDER BY id"
        while rows := self.do(f"{query} LIMIT {BLOCK}", after, last):
            if (np.diff([row[0] for row in rows], prepend=after) <= 0).any():
                raise self.damaged("its rows are out of order")
            after = rows[-1][0]
            if len((block := self.checked(rows, known, wrong)).ids):
                yield block

    def versions(self, key: str) -> list[Version]:
        """Return all that an item was since the last prune, oldest first; empty: it never was."""
        time = "(SELECT time FROM changes WHERE {} ORDER BY revision DESC LIMIT 1)"
        every = ["SELECT id, key, label, contract, until FROM past"]
        for number, *_ in self.facts.contracts.values():
            every.append(f"SELECT id, key, label, {number}, NULL FROM rows_{number}")
        rows = self.do(
            f"SELECT p.id, label, c.id, {time.format('first_id <= p.id')}, "
            f"{time.format('revision = until')} FROM ({' UNION ALL '.join(every)}) p "
            "JOIN contracts c ON c.number = contract WHERE key = %s ORDER BY p.id",
            key,
        )
        return [Version(*row) for row in rows]

    def hits(self) -> dict[str, int]:
        """Return how often present items were found, of those that ever were, by key."""
        return dict(self.do("SELECT key, count FROM hits"))

    def search(
        self,
        contract: Contract,
        queries: Float32[np.ndarray, "q d"],
        k: int,
        side: LinearMap | None = None,
    ) -> Found:
        """Return the rows of one contract that are nearest to each query, best first.

        Args:
            contract: of the rows; one without rows has no hits.
            queries: unit vectors, in the space in which they meet the rows (behind the bridge's
                side for queries, where there is one).
            k: hits a query, at least 1; with fewer rows than that, as many as there are.
            side: the bridge's side for stored rows, through which they are compared
                (`features.bridged.through`); None: as they are stored.

        Returns:
            Cosines and ids. What the search needs and is not ready is built first.

        Raises:
            FeatureError: `side` sends a row to zero, or takes another dimension.
        """
        if (known := self.known(contract)) is None:
            none = np.empty((len(queries), 0))
            return Found(none.astype(np.float32), none.astype(np.int64), True)
        found = self.database.search(self, Asked(known, queries, min(k, known.rows), side))
        if found.ids.shape[1] < min(k, known.rows) and found.exact:
            raise self.damaged(f"{known.rows:,} rows of {contract} are told of, fewer are there")
        return found

    def ready(self, contract: Contract, side: LinearMap | None = None) -> int | None:
        """Return for how many rows a search through `side` is prepared; None: it builds first."""
        known = self.facts.contracts.get(contract.id)
        return self.database.ready(self, known, side) if known else None

    def searched_by(self) -> str:
        """Return how rows are found: "exact" where all are compared, else by which index."""
        return self.facts.searched_by

    def faults(self, progress: Tick | None = None) -> list[str]:
        """Read every row and record, and return all that is wrong with them, a line each."""
        found, wrong, done = self.database.faults(self), list[str](), 0
        self.edges()
        contracts = self.facts.contracts.values()
        total = sum(known.rows for known in contracts)
        past = f"SELECT {ROW} FROM past WHERE contract = %s AND id > %s ORDER BY id LIMIT {BLOCK}"
        for known in contracts:
            before = done + len(wrong)
            for block in self.blocks(known.contract, wrong=wrong):
                done += len(block.ids)
                if progress:
                    progress(done, total)
            if more := done + len(wrong) - before - known.rows:
                found.append(
                    f"contract {known.contract.id} has {more:+,} rows more than are told of"
                )
            after = 0
            while rows := self.do(past, known.number, after):
                after = rows[-1][0]
                self.checked(rows, known, wrong)
        if contracts:
            every = " UNION ".join(f"SELECT key FROM {known.table}" for known in contracts)
            [(keys,)] = self.do(f"SELECT count(*) FROM ({every}) k")
            if keys != total:
                found.append(f"{keys:,} keys are there, {total:,} items are told of")
        return found + [f"the item {key!r} is not as it was enrolled" for key in wrong]
