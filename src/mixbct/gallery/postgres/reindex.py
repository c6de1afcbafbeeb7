"""Searching a gallery in PostgreSQL in another way: exactly, by HNSW, or through Milvus."""

from mixbct.errors import GalleryError
from mixbct.gallery.milvus import Milvus
from mixbct.gallery.postgres.database import Postgres
from mixbct.gallery.postgres.derive import forget
from mixbct.gallery.postgres.search import EXACT, HNSW, recall
from mixbct.gallery.postgres.tables import index
from mixbct.gallery.records import Stored, Tick
from mixbct.gallery.rules import edges_from, side_of
from mixbct.gallery.store import Store


def reindex(
    store: Store, searched_by: str, progress: Tick | None = None
) -> list[tuple[Stored, bool, float]]:
    """Search in another way from now on; build what the query model needs for it.

    Args:
        store: it must be in PostgreSQL.
        searched_by: "exact", "pgvector-hnsw", or a place of Milvus (`milvus.py`).
        progress: as for `prepare`, contract by contract.

    Returns:
        The contracts, whether searches of them are exact, and their recall at 10.

    Raises:
        GalleryError: there is no such way, or it cannot be reached.
    """
    postgres = store.database
    if not isinstance(postgres, Postgres):
        raise GalleryError(
            "this gallery is a folder, which FAISS always searches exactly; an index can be chosen "
            "for one in PostgreSQL (`mixbct gallery init postgresql://…`)"
        )
    if searched_by not in (EXACT, HNSW):
        Milvus(searched_by).count("none")  # it is there
    with store.write() as to:
        if postgres.milvus(to):
            for made in to.facts.derived.values():
                forget(postgres, to, made)
        to.do("UPDATE gallery SET searched_by = %s", searched_by)
        to.changing()
        for known in to.facts.contracts.values():
            index(to.connection, known.table, known.contract.dim, searched_by)
        dim = "SELECT (json::json->>'target_dim')::int FROM derived WHERE name = %s"
        for name in [made.name for made in to.facts.derived.values()]:
            index(to.connection, name, to.do(dim, name)[0][0], searched_by)
    with store.read() as snapshot:
        edges = edges_from(snapshot, snapshot.query_model().contract)
        sides = {s: side_of(edges.get(s.contract.id)) for s in snapshot.contracts()}
    for stored, side in sides.items():
        store.prepare(stored.contract, side, progress)
    with store.read() as snapshot:
        every = snapshot.facts.contracts
        return [
            (s, *recall(postgres, snapshot, every[s.contract.id], side))
            for s, side in sides.items()
        ]
