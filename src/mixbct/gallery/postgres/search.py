"""The nearest rows of a contract: by a scan of its table, by HNSW, or by Milvus.

The scan is exact, whatever indexes somebody makes beside mixbct. Vectors in Milvus are all rows up
to some id, and rows that went since: what went is left out, what came later is compared here, so
that a search shows its own state of the gallery, however far behind Milvus is.
"""

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float32

from mixbct.errors import GalleryError
from mixbct.features.bridged import through
from mixbct.gallery.facts import Asked, Known
from mixbct.gallery.milvus import MOST, Milvus
from mixbct.gallery.ranking import best_of
from mixbct.gallery.records import Found
from mixbct.gallery.snapshot import Snapshot
from mixbct.schemas.linear_map import LinearMap

if TYPE_CHECKING:
    from mixbct.gallery.postgres.database import Postgres

EXACT: Final = "exact"
HNSW: Final = "pgvector-hnsw"
Queries = Float32[np.ndarray, "q d"]


class Derived(NamedTuple):
    """A table of mapped rows, or a collection in Milvus.

    All rows up to the id `last` are to be in it, those up to `filled` are, and so many `rows` were
    put into it. Later ones are in a table as well.
    """

    name: str
    filled: int
    last: int
    rows: int

    @property
    def is_table(self) -> bool:
        """Whether it is a table, which whoever writes follows."""
        return self.name.startswith("mapped_")


def search(postgres: "Postgres", snapshot: Snapshot, asked: Asked) -> Found:
    """Return the k nearest rows of each query."""
    milvus, by = postgres.milvus(snapshot), snapshot.facts.searched_by
    found = _by_milvus(postgres, milvus, snapshot, asked) if milvus else None
    found = found or _by_table(snapshot, asked, approximate=by == HNSW)
    if found is None:
        postgres.prepare_beside(snapshot, asked.known, asked.side)
        found = _by_reading(snapshot, asked)
    return found


def recall(
    postgres: "Postgres", snapshot: Snapshot, known: Known, side: LinearMap | None, k: int = 10
) -> tuple[bool, float]:
    """Return whether a search is exact, and its recall.

    That is, the part of the k rows nearest to each of 100 stored ones that it finds.
    """
    ids = snapshot.do(f"SELECT id FROM {known.table} ORDER BY md5(id::text) LIMIT 100")
    rows = snapshot.vectors([id for (id,) in ids])
    k = min(k, known.rows)
    asked = Asked(known, through(side, np.stack(list(rows.values()))), k, side)
    every = _by_table(snapshot, asked, approximate=False) or _by_reading(snapshot, asked)
    found = search(postgres, snapshot, asked)
    pairs = zip(found.ids, every.ids, strict=True)
    return found.exact, float(np.mean([np.isin(there, here).mean() for here, there in pairs]))


def _best_of(parts: list[Found], k: int) -> Found:
    """Return the k best of several results for the same queries; equal scores by id."""
    best = best_of([part.scores for part in parts], [part.ids for part in parts], k)
    return Found(*best, all(part.exact for part in parts))


def _by_table(snapshot: Snapshot, asked: Asked, approximate: bool) -> Found | None:
    """Let the server compare; None: mapped rows are not made."""
    known, queries, k, side = asked
    if (table := table_of(snapshot, known, side)) is None:
        return None
    # an index that somebody made is for `vector <#> …` alone: it cannot answer this
    query = f"SELECT -(vector <#> %b) AS score, id FROM {table} ORDER BY 1 DESC, 2 LIMIT %s"
    values: list[tuple[Any, ...]] = [(each, k) for each in queries]
    if approximate:
        snapshot.do("SET LOCAL enable_seqscan = off")
        snapshot.do(f"SET LOCAL hnsw.ef_search = {min(max(4 * k, 100), 1000)}")
        snapshot.do("SET LOCAL hnsw.iterative_scan = strict_order")
        held, cast = indexed(queries.shape[1])
        query = (
            f"WITH near AS MATERIALIZED (SELECT id, vector FROM {table} ORDER BY {held} <#> "
            f"%b::vector{cast} LIMIT %s) "
            "SELECT -(vector <#> %b) AS score, id FROM near ORDER BY 1 DESC, 2"
        )
        values = [(each, k, each) for each in queries]
    found: list[Any] = [snapshot.do(query, *each) for each in values]
    size = min(map(len, found), default=0)
    pairs = np.array([each[:size] for each in found]).reshape(len(queries), size, 2)
    return Found(pairs[..., 0].astype(np.float32), pairs[..., 1].astype(np.int64), not approximate)


def _by_reading(snapshot: Snapshot, asked: Asked, after: int = 0) -> Found:
    """Compare every row above an id here, mapped as it comes."""
    none = np.empty((len(asked.queries), 0))
    best = Found(none.astype(np.float32), none.astype(np.int64), True)
    for block in snapshot.blocks(asked.known.contract, after):
        scores = asked.queries @ through(asked.side, block.vectors, block.keys).T
        ids = np.broadcast_to(block.ids, scores.shape)
        best = _best_of([best, Found(scores, ids, True)], asked.k)
    return best


def _by_milvus(
    postgres: "Postgres", milvus: Milvus, snapshot: Snapshot, asked: Asked
) -> Found | None:
    """Search by Milvus; None: it has not, or in doubt, what it takes."""
    known, queries, k, side = asked
    made, rows = derived(snapshot, known, side), known.rows
    late = rows
    if made:
        [(late,)] = snapshot.do(f"SELECT count(*) FROM {known.table} WHERE id > %s", made.filled)
    gone = made.rows - rows + late if made else 0
    if made is None or max(late, gone) > 1000 + rows // 8:
        postgres.prepare_beside(snapshot, known, side)
    if made is None or not made.rows or k + gone > MOST or milvus.count(made.name) < made.rows:
        return None
    near = milvus.search(made.name, queries, min(k + gone, made.rows))
    query = f"SELECT id FROM {known.table} WHERE id = ANY(%s) AND id <= %s"
    present = snapshot.do(query, np.unique(near.ids).tolist(), made.filled)
    good = np.isin(near.ids, [id for (id,) in present])
    if good.sum(1).min() < min(k, rows - late):
        return None
    scores = np.where(good, near.scores, -np.inf).astype(np.float32)
    later = _by_reading(snapshot, asked, made.filled)
    return _best_of([Found(scores, near.ids, near.exact), later], k)


def derived(snapshot: Snapshot, known: Known, side: LinearMap | None) -> Derived | None:
    """Return what is made of a contract's rows for searches through a side."""
    return snapshot.facts.derived.get((known.number, side.digest if side else ""))


def table_of(snapshot: Snapshot, known: Known, side: LinearMap | None) -> str | None:
    """Return the table that shows a contract through a side, once it is whole."""
    if side is None:
        return known.table
    made = derived(snapshot, known, side)
    return made.name if made and made.is_table and made.filled >= made.last else None


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
