"""What is read of a gallery in PostgreSQL, all of it in one state."""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32
from pydantic import BaseModel, ValidationError

from mixbct.errors import GalleryError
from mixbct.features.bridged import through
from mixbct.gallery.database import digest_of
from mixbct.gallery.records import Found, Item, QueryModel, RowBlock, Stored, Switch, Version
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
EXACT: Final = "exact"
HNSW: Final = "pgvector-hnsw"


def checksum(key: str, label: str | None, contract_id: str, vector: bytes) -> int:
    """Return a row's checksum as the server's `integer` holds it."""
    return digest_of(key, "\0" if label is None else label, contract_id, vector) - 2**31


class Derived(NamedTuple):
    """A table of mapped rows. All rows up to the id `last` are to be in it; later ones are."""

    name: str
    filled: int
    last: int


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
        self._connection = connection
        self._facts: Facts | None = None

    def _do(self, query: str, *values: Any, **named: Any) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(query.encode(), values or named or None, binary=True)
        return cursor.fetchall() if cursor.description else []

    @property
    def facts(self) -> Facts:
        """Read what is known of the gallery, where that is not of this state already."""
        if self._facts is None:
            [(*state, last_id, index)] = self._do(
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
            id: (number, self._record(Contract, text), rows)
            for number, id, text, rows in self._do("SELECT * FROM contracts ORDER BY id")
        }
        by_number = {number: contract for number, contract, _ in contracts.values()}
        switches = [
            Switch(number, QueryModel(by_number[n], Path(folder) if folder else None), *rest)
            for number, n, folder, *rest in self._do(
                "SELECT number, contract, folder, time, before, restores FROM switches ORDER BY 1"
            )
        ]
        derived = {
            (number, side): Derived(*rest)
            for number, side, *rest in self._do(
                "SELECT contract, side, name, filled, last FROM derived"
            )
        }
        return Facts(state, last_id, index, contracts, switches, derived)

    def _record(self, model: type[ModelT], text: str) -> ModelT:
        try:
            return model.model_validate_json(text)
        except (ValidationError, RecursionError) as problem:
            raise GalleryError(
                f"{self._store.place} holds a record ({model.__name__}) that this version of "
                f"mixbct cannot read: {first_problem(problem)}; use the version that wrote it, or "
                "a backup"
            ) from None

    def _damaged(self, what: str) -> GalleryError:
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
            raise self._damaged("it names no query model")
        return self.facts.switches[-1].model

    def switches(self) -> list[Switch]:
        """Return every switch, oldest first."""
        return list(self.facts.switches)

    def edges(self) -> list[Edge]:
        """Return every recorded edge; one is sent and parsed once."""
        present = self._do("SELECT source, target, since, digest FROM edges WHERE until IS NULL")
        known = self._store.edges
        if not known.keys() >= set(present):
            known = {}
            for *place, text, source, target in self._do(
                "SELECT source, target, since, digest, e.json, s.id, t.id FROM edges e JOIN "
                "contracts s ON s.number = source JOIN contracts t ON t.number = target "
                "WHERE until IS NULL"
            ):
                if place[3] != checksum(source, target, text, b""):
                    raise self._damaged(f"the edge from {source} to {target} was changed")
                known[tuple(place)] = self._record(Edge, text)
            self._store.edges = known
        return [known[place] for place in sorted(present)]

    def contracts(self) -> list[Stored]:
        """Return the contracts that have rows."""
        return [Stored(c, rows) for _, c, rows in self.facts.contracts.values() if rows]

    def ids(self, keys: Collection[str]) -> dict[str, int]:
        """Return the ids of the keys that have a row."""
        found = dict(self._do("SELECT key, id FROM items WHERE key = ANY(%s)", list(keys)))
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
        for id, (number, _, rows) in self.facts.contracts.items():
            if rows and len(found) < len(wanted):
                for row in self._checked(
                    self._do(
                        "SELECT i.id, key, label, contract, digest, vector FROM items i "
                        f"JOIN vectors_{number} v ON v.id = i.id WHERE v.id = ANY(%s)",
                        wanted,
                    ),
                    id,
                ):
                    found[row[0]] = Item(row[1], row[2], id), row[3]
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
            array = None if vector is None else vector.to_numpy()
            if (
                array is None
                or contract != number
                or digest != checksum(key, label, contract_id, array.tobytes())
            ):
                if wrong is None:
                    raise self._changed(str(key))
                wrong.append(str(key))
            else:
                yield id, key, label, array

    def blocks(self, contract: Contract, after: int = 0) -> Iterator[RowBlock]:
        """Yield a contract's rows, by id, 8,192 at a time."""
        return self._blocks(contract, after)

    def _blocks(
        self, contract: Contract, after: int = 0, last: int = 2**62, wrong: list[str] | None = None
    ) -> Iterator[RowBlock]:
        if contract.id not in self.facts.contracts:
            return
        number = self.facts.contracts[contract.id][0]
        query = (
            f"SELECT v.id, key, label, contract, digest, vector FROM vectors_{number} v "
            "LEFT JOIN items i ON i.id = v.id WHERE v.id > %s AND v.id <= %s ORDER BY v.id LIMIT %s"
        )
        while rows := self._do(query, after, last, BLOCK):
            after = rows[-1][0]
            if good := list(self._checked(rows, contract.id, wrong)):
                ids, keys, labels, vectors = zip(*good, strict=True)
                yield RowBlock(np.array(ids, np.int64), list(keys), list(labels), np.stack(vectors))

    def versions(self, key: str) -> list[Version]:
        """Return all that an item was."""
        time = "(SELECT time FROM changes WHERE {} ORDER BY revision DESC LIMIT 1)"
        rows = self._do(
            f"SELECT p.id, label, c.id, {time.format('first_id <= p.id')}, "
            f"{time.format('revision = until')} FROM (SELECT id, key, label, contract, until "
            "FROM past UNION ALL SELECT id, key, label, contract, NULL FROM items) p "
            "JOIN contracts c ON c.number = contract WHERE key = %s ORDER BY p.id",
            key,
        )
        return [Version(*row) for row in rows]

    def search(
        self,
        contract: Contract,
        queries: Float32[np.ndarray, "q d"],
        k: int,
        side: LinearMap | None = None,
    ) -> Found:
        """Return the nearest rows of one contract; of mapped rows, where they are not made, too."""
        number, _, rows = self.facts.contracts.get(contract.id, (0, contract, 0))
        if not rows:
            empty = (len(queries), 0)
            return Found(np.empty(empty, np.float32), np.empty(empty, np.int64), exact=True)
        table = self._table(number, side)
        if table is None:
            self._prepare_beside(contract, side)
            return self._scan(contract, queries, min(k, rows), side)
        approximate = self.facts.searched_by == HNSW
        if approximate:
            query = self._through_index(table, queries.shape[1], k)
        else:
            # an index that somebody made is for `vector <#> …` alone: it cannot answer this
            query = (
                f"SELECT -(vector <#> %(q)b) AS score, id FROM {table} "
                "ORDER BY 1 DESC, 2 LIMIT %(k)s"
            )
        found = [self._do(query, q=each, k=min(k, rows)) for each in queries]
        size = min(map(len, found))
        if size < min(k, rows) and not approximate:
            raise self._damaged(f"{rows:,} rows of {contract} are told of, {size:,} are there")
        pairs = [[row[place] for row in each[:size]] for place in (0, 1) for each in found]
        scores, ids = pairs[: len(found)], pairs[len(found) :]
        return Found(np.array(scores, np.float32), np.array(ids, np.int64), not approximate)

    def _table(self, number: int, side: LinearMap | None) -> str | None:
        """Return the table that shows a contract through a side, once it is whole."""
        if side is None:
            return f"vectors_{number}"
        derived = self.facts.derived.get((number, side.digest))
        return derived.name if derived and derived.filled >= derived.last else None

    def _prepare_beside(self, contract: Contract, side: LinearMap | None) -> None:
        """Build what is missing for those who come later; this state cannot see it."""
        with contextlib.suppress(GalleryError):
            self._store.prepare(contract, side)

    def _scan(
        self,
        contract: Contract,
        queries: Float32[np.ndarray, "q d"],
        k: int,
        side: LinearMap | None,
        after: int = 0,
    ) -> Found:
        """Compare every row above an id here, mapped as it comes."""
        best = Found(
            np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), int), True
        )
        for block in self._blocks(contract, after):
            scores = queries @ through(side, block.vectors, block.keys).T
            ids = np.broadcast_to(block.ids, scores.shape)
            best = best_of([best, Found(scores, ids, True)], k)
        return best

    def _through_index(self, table: str, dim: int, k: int) -> str:
        """Return the query by an HNSW index; what it finds is scored and ordered exactly."""
        self._do("SET LOCAL enable_seqscan = off")
        self._do(f"SET LOCAL hnsw.ef_search = {min(max(4 * k, 100), 1000)}")
        self._do("SET LOCAL hnsw.iterative_scan = strict_order")
        held, cast = indexed(dim)
        return (
            f"WITH near AS MATERIALIZED (SELECT id, vector FROM {table} ORDER BY {held} <#> "
            f"%(q)b::vector{cast} LIMIT %(k)s) "
            "SELECT -(vector <#> %(q)b) AS score, id FROM near ORDER BY 1 DESC, 2"
        )

    def ready(self, contract: Contract, side: LinearMap | None = None) -> int | None:
        """Return for how many rows a search through `side` is prepared."""
        number, _, rows = self.facts.contracts.get(contract.id, (0, contract, 0))
        return rows if self._table(number, side) else None

    def faults(self, progress: Tick | None = None) -> list[str]:
        """Read every row and record, and return all that is wrong with them."""
        wrong: list[str] = []
        found: list[str] = []
        total, done = sum(rows for _, _, rows in self.facts.contracts.values()), 0
        for number, contract, rows in self.facts.contracts.values():
            there = len(wrong)
            seen = 0
            for block in self._blocks(contract, wrong=wrong):
                seen += len(block.ids)
                if progress:
                    progress(done + seen, total)
            done += seen
            if more := seen + len(wrong) - there - rows:
                found.append(f"contract {contract.id} has {more:+,} rows more than are told of")
            past = self._do(
                "SELECT id, key, label, contract, digest, vector FROM past WHERE contract = %s",
                number,
            )
            list(self._checked(past, contract.id, wrong))
        for (number, _), each in self.facts.derived.items():
            names = each.name, f"vectors_{number}"
            mapped, stored = (self._do(f"SELECT count(*) FROM {name}") for name in names)
            if each.filled >= each.last and mapped != stored:
                found.append(f"{each.name} has other rows than it was made of")
        [(lost,)] = self._do("SELECT count(*) FROM items")
        if lost != total:
            found.append(f"{lost:,} items are there, {total:,} are told of")
        return found + [f"the item {key!r} is not as it was enrolled" for key in wrong]


def best_of(parts: Sequence[Found], k: int) -> Found:
    """Return the k best of several results for the same queries; equal scores by id."""
    scores = np.concatenate([part.scores for part in parts], 1)
    ids = np.concatenate([part.ids for part in parts], 1)
    order = np.lexsort((ids, -scores))[:, :k]
    exact = all(part.exact for part in parts)
    return Found(np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1), exact)


def indexed(dim: int) -> tuple[str, str]:
    """Return what an HNSW index holds of `vector`, and how a query is made into the same.

    Raises:
        GalleryError: it can hold no vectors of so many dimensions.
    """
    if dim <= 2000:
        return "vector", ""
    if dim <= 4000:
        return f"(vector::halfvec({dim}))", f"::halfvec({dim})"
    raise GalleryError(
        f"pgvector's HNSW index takes vectors of up to 4,000 dimensions, not {dim:,}; search "
        "exactly (`--index exact`), or through Milvus (`--index milvus://HOST:PORT`)"
    )
