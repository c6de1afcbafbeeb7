"""A search of the gallery, beside a bare FAISS index over the same vectors."""

from pathlib import Path

import faiss
import numpy as np
from jaxtyping import Float32

from benchmarks.data import DIM, clustered_vectors, demo_model
from benchmarks.measure import Figure, in_turn, time_figure
from mixbct.data.bank import normalise
from mixbct.gallery import Gallery
from mixbct.schemas.contract import Contract

ROWS = 100_000
QUERIES = 64
HITS = 10


def run(folder: Path) -> list[Figure]:
    """Return search: seconds a batch of queries, items looked up in the store included."""
    contract = demo_model().contract
    queries, index = stored(folder / "gallery", contract, QUERIES)
    with Gallery.open(folder / "gallery") as gallery:
        pairs = in_turn(
            lambda: gallery.search(queries, contract, HITS),
            lambda: index.search(queries, HITS),
            for_seconds=20,
        )
    return [time_figure("search", "s/batch", pairs)]


def stored(
    place: Path, contract: Contract, count: int
) -> tuple[Float32[np.ndarray, "q d"], faiss.IndexFlatIP]:
    """Make a gallery; return queries, and a bare index over the same vectors."""
    labels = np.arange(ROWS) % 10_000
    vectors = clustered_vectors(labels, DIM, seed=4)
    index = faiss.IndexFlatIP(DIM)
    index.add(normalise(vectors))
    with Gallery.create(place, contract) as gallery:
        keys, names = [f"item {i}" for i in range(ROWS)], [str(label) for label in labels]
        gallery.enrol(keys, names, vectors, contract)
    return normalise(clustered_vectors(labels[:count], DIM, seed=5)), index
