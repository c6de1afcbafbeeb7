"""What is read of a gallery in PostgreSQL, all of it in one state."""

import contextlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32
from pydantic import BaseModel, ValidationError

from mixbct.errors import GalleryError
from mixbct.gallery.database import digest_of
from mixbct.gallery.milvus import Milvus
from mixbct.gallery.postgres.search import Asked, Queries, search
from mixbct.gallery.records import Found, Item, QueryModel, RowBlock, Stored, Switch, Version
from mixbct.gallery.rules import edges_from, side_of
from mixbct.gallery.store import Tick
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import Contract
from mixbct.schemas.record import first_problem

if TYPE_CHECKING:
    from psycopg import Connection

    from mixbct.gallery.postgres.store import PostgresStore

ModelT = TypeVar("ModelT", bound=BaseModel)
BLOCK: Final = 8192


def checksum(key: str, label: str | None, contract_id: str, vector: bytes) -> int:
    """Return a row's checksum as the server's `integer` holds it."""
    return digest_of(key, "\0" if label is None else label, contract_id, vector) - 2**31


class Derived(NamedTuple):
    """A table of mapped rows, or a collection in Milvus.

    All rows up to the id `last` are to be in it, those up to `filled` are, and so many `rows` were
    put into it. Later ones are in a table as well.
    """

    name: str
    filled: int
    last: int
    rows: int


class Facts(NamedTuple):
    """What is known of the gallery in one state."""

    state: list[Any]
    last_id: int
    searched_by: str
    contracts: dict[str, tuple[int, Contract, int]]
    """Number, contract and rows, by id."""
    switches: list[Switch]
    derived: dict[tuple[int, str], Derived]
    """By a contract's number and the digest of the bridge's side for its rows."""


class Snapshot:
    """One state of the gallery (`store.Snapshot`)."""

    _changes = False

    def __init__(self, store: "PostgresStore", connection: "Connection") -> None:
        self._store = store
        self.connection = connection
        self._facts: Facts | None = None

    def do(self, query: str, *values: Any, **named: Any) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        cursor = self.connection.execute(query.encode(), values or named or None, binary=True)
        return cursor.fetchall() if cursor.description else []

    @property
    def facts(self) -> Facts:
        """Read what is known of the gallery, where that is not of this state already."""
        if self._facts is None:
            [(*state, last_id, index)] = self.do(
                "SELECT revision, token, last_id, index FROM gallery"
            )
            self._facts = self._store.facts
            if self._facts is None or self._facts.state != state:
                self._facts = self._read_facts(state, last_id, index)
                if not self._changes:  # what is not committed is nobody else's
                    self._store.facts = self._facts
        return self._facts

    def _read_facts(self, state: list[Any], last_id: int, index: str) -> Facts:
        contracts = {
            id: (number, self.parsed(Contract, text), rows)
            for number, id, text, rows in self.do("SELECT * FROM contracts ORDER BY id")
        }
        by_number = {number: contract for number, contract, _ in contracts.values()}
        switches = [
            Switch(number, QueryModel(by_number[n], Path(folder) if folder else None), *rest)
            for number, n, folder, *rest in self.do(
                "SELECT number, contract, folder, time, before, restores FROM switches ORDER BY 1"
            )
        ]
        derived = {
            (number, side): Derived(*rest)
            for number, side, *rest in self.do(
                "SELECT contract, side, name, filled, last, rows FROM derived WHERE contract > 0"
            )
        }
        return Facts(state, last_id, index, contracts, switches, derived)

    def parsed(self, model: type[ModelT], text: str) -> ModelT:
        """Read a record."""
        try:
            return model.model_validate_json(text)
        except (ValidationError, RecursionError) as problem:
            raise GalleryError(
                f"{self._store.place} holds a record ({model.__name__}) that this version of "
                f"mixbct cannot read: {first_problem(problem)}; use the version that wrote it, or "
                "a backup"
            ) from None

    def damaged(self, what: str) -> GalleryError:
        """Return the error about what was changed behind mixbct's back."""
        return GalleryError(f"{self._store.place} is damaged ({what}); restore it from a backup")

    def _changed(self, key: str) -> GalleryError:
        place = self._store.place
        return GalleryError(
            f"{place} is damaged: the item {key!r} is not as it was enrolled; `mixbct gallery "
            f"status {place} --verify` lists all such items. Enrol them again (--replace), or "
            "restore a backup"
        )

    def query_model(self) -> QueryModel:
        """Return the model of the last switch."""
        if not self.facts.switches:
            raise self.damaged("it names no query model")
        return self.facts.switches[-1].model

    def switches(self) -> list[Switch]:
        """Return every switch, oldest first."""
        return list(self.facts.switches)

    def edges(self) -> list[Edge]:
        """Return every recorded edge; one is sent and parsed once."""
        present = self.do("SELECT source, target, since, digest FROM edges WHERE until IS NULL")
        known = self._store.edges
        if not known.keys() >= set(present):
            known = {}
            for *place, text, source, target in self.do(
                "SELECT source, target, since, digest, e.json, s.id, t.id FROM edges e JOIN "
                "contracts s ON s.number = source JOIN contracts t ON t.number = target "
                "WHERE until IS NULL"
            ):
                if place[3] != checksum(source, target, text, b""):
                    raise self.damaged(f"the edge from {source} to {target} was changed")
                known[tuple(place)] = self.parsed(Edge, text)
            self._store.edges = known
        return [known[place] for place in sorted(present)]

    def contracts(self) -> list[Stored]:
        """Return the contracts that have rows."""
        return [Stored(c, rows) for _, c, rows in self.facts.contracts.values() if rows]

    def ids(self, keys: Collection[str]) -> dict[str, int]:
        """Return the ids of the keys that have a row."""
        found = dict(self.do("SELECT key, id FROM items WHERE key = ANY(%s)", list(keys)))
        return {key: found[key] for key in keys if key in found}

    def items(self, ids: Collection[int]) -> dict[int, Item]:
        """Return key, label and contract of rows."""
        return {id: item for id, (item, _) in self._rows(ids).items()}

    def vectors(self, ids: Collection[int]) -> dict[int, Float32[np.ndarray, " d"]]:
        """Return the stored vectors of rows."""
        return {id: vector for id, (_, vector) in self._rows(ids).items()}

    def _rows(self, ids: Collection[int]) -> dict[int, tuple[Item, np.ndarray]]:
        wanted = sorted(set(map(int, ids)))
        found: dict[int, tuple[Item, np.ndarray]] = {}
        query = (
            "SELECT i.id, key, label, contract, digest, vector FROM items i "
            "JOIN vectors_{} v ON v.id = i.id WHERE v.id = ANY(%s)"
        )
        for contract_id, (number, _, rows) in self.facts.contracts.items():
            there = self.do(query.format(number), wanted) if rows and wanted else []
            for id, key, label, vector in self._checked(there, contract_id):
                found[id] = Item(key, label, contract_id), vector
        if len(found) != len(wanted):
            missing = next(id for id in wanted if id not in found)
            raise GalleryError(
                f"{self._store.place} has no present row with the id {missing}; a search of it "
                "would name one that is"
            )
        return found

    def _checked(
        self, rows: Iterable[tuple[Any, ...]], contract_id: str, wrong: list[str] | None = None
    ) -> Iterator[tuple[int, str, str | None, np.ndarray]]:
        """Yield rows whose checksum holds; the keys of others go to `wrong`, or are an error."""
        number = self.facts.contracts[contract_id][0]
        for id, key, label, contract, digest, vector in rows:
            array = vector.to_numpy()
            # a vector without an item has no contract
            if contract == number and digest == checksum(key, label, contract_id, array.tobytes()):
                yield id, key, label, array
            elif wrong is None:
                raise self._changed(str(key))
            else:
                wrong.append(str(key))

    def blocks(self, contract: Contract, after: int = 0) -> Iterator[RowBlock]:
        """Yield a contract's rows, by id, 8,192 at a time."""
        return self.some_blocks(contract, after)

    def some_blocks(
        self, contract: Contract, after: int = 0, last: int = 2**62, wrong: list[str] | None = None
    ) -> Iterator[RowBlock]:
        """Yield blocks up to an id, without rows that are not as they were: see `_checked`."""
        if contract.id not in self.facts.contracts:
            return
        number = self.facts.contracts[contract.id][0]
        # OFFSET 0 has items looked up one by one: right after an import the server does not know
        # how many there are, and would read them all for every block
        query = (
            f"SELECT v.id, key, label, contract, digest, vector FROM (SELECT id, vector FROM "
            f"vectors_{number} WHERE id > %s AND id <= %s ORDER BY id LIMIT {BLOCK}) v "
            "LEFT JOIN LATERAL (SELECT * FROM items i WHERE i.id = v.id OFFSET 0) i ON true "
            "ORDER BY v.id"
        )
        while rows := self.do(query, after, last):
            after = rows[-1][0]
            if good := list(self._checked(rows, contract.id, wrong)):
                ids, keys, labels, vectors = zip(*good, strict=True)
                yield RowBlock(np.array(ids, np.int64), list(keys), list(labels), np.stack(vectors))

    def versions(self, key: str) -> list[Version]:
        """Return all that an item was."""
        time = "(SELECT time FROM changes WHERE {} ORDER BY revision DESC LIMIT 1)"
        rows = self.do(
            f"SELECT p.id, label, c.id, {time.format('first_id <= p.id')}, "
            f"{time.format('revision = until')} FROM (SELECT id, key, label, contract, until "
            "FROM past UNION ALL SELECT id, key, label, contract, NULL FROM items) p "
            "JOIN contracts c ON c.number = contract WHERE key = %s ORDER BY p.id",
            key,
        )
        return [Version(*row) for row in rows]

    def hits(self) -> dict[str, int]:
        """Return how often present items were found."""
        return dict(self.do("SELECT key, count FROM hits JOIN items USING (key)"))

    def search(
        self, contract: Contract, queries: Queries, k: int, side: LinearMap | None = None
    ) -> Found:
        """Return the nearest rows of one contract."""
        return search(self, Asked(contract, queries, k, side))

    def number(self, contract: Contract) -> int | None:
        """Return the number of a contract's tables; None: it is not known here."""
        return self.facts.contracts[contract.id][0] if contract.id in self.facts.contracts else None

    def derived(self, contract: Contract, side: LinearMap | None) -> Derived | None:
        """Return what is made of a contract's rows for searches through a side."""
        place = self.number(contract) or 0, side.digest if side else ""
        return self.facts.derived.get(place)

    def table(self, contract: Contract, side: LinearMap | None) -> str | None:
        """Return the table that shows a contract through a side, once it is whole."""
        if side is None:
            return f"vectors_{self.number(contract)}"
        known = self.derived(contract, side)
        whole = known and known.filled >= known.last and known.name.startswith("mapped_")
        return known.name if known and whole else None

    def side_of(self, contract: Contract) -> LinearMap | None:
        """Return what the query model compares a contract's rows through."""
        return side_of(edges_from(self, self.query_model().contract).get(contract.id))

    @property
    def milvus(self) -> Milvus | None:
        """Where vectors are searched, if not here."""
        return self._store.milvus(self.facts.searched_by)

    def prepare_beside(self, contract: Contract, side: LinearMap | None) -> None:
        """Build what is missing for those who come later; this state cannot see it."""
        with contextlib.suppress(GalleryError):
            self._store.prepare(contract, side, wait=False)

    def ready(self, contract: Contract, side: LinearMap | None = None) -> int | None:
        """Return for how many rows a search through `side` is prepared."""
        known = self.derived(contract, side)
        whole = known and known.filled >= known.last if self.milvus else self.table(contract, side)
        rows = self.facts.contracts[contract.id][2] if self.number(contract) else 0
        return rows if whole else None

    def searched_by(self) -> str:
        """Return how rows are found."""
        return self.facts.searched_by

    def faults(self, progress: Tick | None = None) -> list[str]:
        """Read every row and record, and return all that is wrong with them."""
        wrong: list[str] = []
        found: list[str] = []
        total, done = sum(rows for _, _, rows in self.facts.contracts.values()), 0
        past = "SELECT id, key, label, contract, digest, vector FROM past WHERE contract = %s"
        for number, contract, rows in self.facts.contracts.values():
            before = done + len(wrong)
            for block in self.some_blocks(contract, wrong=wrong):
                done += len(block.ids)
                if progress:
                    progress(done, total)
            if more := done + len(wrong) - before - rows:
                found.append(f"contract {contract.id} has {more:+,} rows more than are told of")
            list(self._checked(self.do(past, number), contract.id, wrong))
        for (number, _), each in self.facts.derived.items():
            if each.name.startswith("mapped_") and each.filled >= each.last:
                tables = each.name, f"vectors_{number}"
                mapped, stored = (self.do(f"SELECT count(*) FROM {table}") for table in tables)
                found += (
                    [] if mapped == stored else [f"{each.name} has other rows than it was made of"]
                )
        [(items,)] = self.do("SELECT count(*) FROM items")
        if items != total:
            found.append(f"{items:,} items are there, {total:,} are told of")
        return found + [f"the item {key!r} is not as it was enrolled" for key in wrong]
