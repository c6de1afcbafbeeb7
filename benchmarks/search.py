"""A search of the gallery, beside a bare FAISS index over the same vectors."""

from pathlib import Path

import faiss
import numpy as np

from benchmarks.data import DIM, clustered_vectors, demo_model
from benchmarks.measure import Figure, in_turn, time_figure
from mixbct.data.bank import normalise
from mixbct.gallery import Gallery

ROWS = 100_000
QUERIES = 64
HITS = 10


def run(folder: Path) -> list[Figure]:
    """Return search: seconds a batch of queries, items looked up in the store included."""
    contract = demo_model().contract
    labels = np.arange(ROWS) % 10_000
    vectors = clustered_vectors(labels, DIM, seed=4)
    queries = normalise(clustered_vectors(labels[:QUERIES], DIM, seed=5))
    index = faiss.IndexFlatIP(DIM)
    index.add(normalise(vectors))
    with Gallery.create(folder / "gallery", contract) as gallery:
        gallery.enrol(
            [f"item {i}" for i in range(ROWS)], [str(i) for i in labels], vectors, contract
        )
        pairs = in_turn(
            lambda: gallery.search(queries, contract, HITS),
            lambda: index.search(queries, HITS),
            for_seconds=20,
        )
    return [time_figure("search", "s/batch", pairs)]
