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
from mixbct.gallery.milvus import MOST, Milvus
from mixbct.gallery.ranking import best_of
from mixbct.gallery.records import Found
from mixbct.schemas.contract import Contract
from mixbct.schemas.linear_map import LinearMap

if TYPE_CHECKING:
    from mixbct.gallery.postgres.snapshot import Snapshot

EXACT: Final = "exact"
HNSW: Final = "pgvector-hnsw"
Queries = Float32[np.ndarray, "q d"]


class Asked(NamedTuple):
    """What is asked of a search (`store.Snapshot.search`)."""

    contract: Contract
    queries: Queries
    k: int
    side: LinearMap | None


def search(snapshot: "Snapshot", asked: Asked) -> Found:
    """Return the k nearest rows of each query."""
    contract, _, k, side = asked
    rows = snapshot.facts.contracts[contract.id][2] if snapshot.number(contract) else 0
    if not rows:
        return _none(len(asked.queries))
    asked = asked._replace(k=min(k, rows))
    milvus, by = snapshot.milvus, snapshot.facts.searched_by
    found = _by_milvus(milvus, snapshot, asked) if milvus else None
    found = found or _by_table(snapshot, asked, approximate=by == HNSW)
    if found is None:
        snapshot.prepare_beside(contract, side)
        found = _by_reading(snapshot, asked)
    if found.ids.shape[1] < asked.k and found.exact:
        raise snapshot.damaged(f"{rows:,} rows of {contract} are told of, fewer are there")
    return found


def recall(
    snapshot: "Snapshot", contract: Contract, side: LinearMap | None, k: int = 10
) -> tuple[bool, float]:
    """Return whether a search is exact, and its recall.

    That is, the part of the k rows nearest to each of 100 stored ones that it finds.
    """
    ids = snapshot.do(
        f"SELECT id FROM vectors_{snapshot.number(contract)} ORDER BY md5(id::text) LIMIT 100"
    )
    rows = snapshot.vectors([id for (id,) in ids])
    asked = Asked(contract, through(side, np.stack(list(rows.values()))), k, side)
    every = _by_table(snapshot, asked, approximate=False) or _by_reading(snapshot, asked)
    found = search(snapshot, asked)
    pairs = zip(found.ids, every.ids, strict=True)
    return found.exact, float(np.mean([np.isin(there, here).mean() for here, there in pairs]))


def _none(queries: int) -> Found:
    return Found(np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int64), True)


def _best_of(parts: list[Found], k: int) -> Found:
    """Return the k best of several results for the same queries; equal scores by id."""
    best = best_of([part.scores for part in parts], [part.ids for part in parts], k)
    return Found(*best, all(part.exact for part in parts))


def _by_table(snapshot: "Snapshot", asked: Asked, approximate: bool) -> Found | None:
    """Let the server compare; None: mapped rows are not made."""
    contract, queries, k, side = asked
    if (table := snapshot.table(contract, side)) is None:
        return None
    # an index that somebody made is for `vector <#> …` alone: it cannot answer this
    query = f"SELECT -(vector <#> %(q)b) AS score, id FROM {table} ORDER BY 1 DESC, 2 LIMIT %(k)s"
    if approximate:
        snapshot.do("SET LOCAL enable_seqscan = off")
        snapshot.do(f"SET LOCAL hnsw.ef_search = {min(max(4 * k, 100), 1000)}")
        snapshot.do("SET LOCAL hnsw.iterative_scan = strict_order")
        held, cast = indexed(queries.shape[1])
        query = (
            f"WITH near AS MATERIALIZED (SELECT id, vector FROM {table} ORDER BY {held} <#> "
            f"%(q)b::vector{cast} LIMIT %(k)s) "
            "SELECT -(vector <#> %(q)b) AS score, id FROM near ORDER BY 1 DESC, 2"
        )
    found: list[Any] = [snapshot.do(query, q=each, k=k) for each in queries]
    size = min(map(len, found), default=0)
    pairs = np.array([each[:size] for each in found]).reshape(len(queries), size, 2)
    return Found(pairs[..., 0].astype(np.float32), pairs[..., 1].astype(np.int64), not approximate)


def _by_reading(snapshot: "Snapshot", asked: Asked, after: int = 0) -> Found:
    """Compare every row above an id here, mapped as it comes."""
    best = _none(len(asked.queries))
    for block in snapshot.blocks(asked.contract, after):
        scores = asked.queries @ through(asked.side, block.vectors, block.keys).T
        ids = np.broadcast_to(block.ids, scores.shape)
        best = _best_of([best, Found(scores, ids, True)], asked.k)
    return best


def _by_milvus(milvus: Milvus, snapshot: "Snapshot", asked: Asked) -> Found | None:
    """Search by Milvus; None: it has not, or in doubt, what it takes."""
    contract, queries, k, side = asked
    number, _, rows = snapshot.facts.contracts[contract.id]
    known, table, late = snapshot.derived(contract, side), f"vectors_{number}", rows
    if known:
        [(late,)] = snapshot.do(f"SELECT count(*) FROM {table} WHERE id > %s", known.filled)
    gone = known.rows - rows + late if known else 0
    if known is None or max(late, gone) > 1000 + rows // 8:
        snapshot.prepare_beside(contract, side)
    if known is None or not known.rows or k + gone > MOST or milvus.count(known.name) < known.rows:
        return None
    near = milvus.search(known.name, queries, min(k + gone, known.rows))
    query = f"SELECT id FROM {table} WHERE id = ANY(%s) AND id <= %s"
    present = snapshot.do(query, np.unique(near.ids).tolist(), known.filled)
    good = np.isin(near.ids, [id for (id,) in present])
    if good.sum(1).min() < min(k, rows - late):
        return None
    scores = np.where(good, near.scores, -np.inf).astype(np.float32)
    later = _by_reading(snapshot, asked, known.filled)
    return _best_of([Found(scores, near.ids, near.exact), later], k)


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
