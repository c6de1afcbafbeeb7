"""Switches, the way back, and one replaced row, in a gallery of a million rows.

The bars are seconds, so the references are those bars. The index of the mapped rows is built
before the switch, and its time stands beside the bare product of the same rows with the map.
"""

import statistics
from pathlib import Path

import numpy as np

from benchmarks.measure import Figure, seconds
from mixbct.data.bank import normalise
from mixbct.gallery import Gallery
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap

ROWS = 1_000_000
DIM = 128
TIMES = 7
SWITCH_SECONDS = 0.1
REPLACE_SECONDS = 0.05


def run(folder: Path) -> list[Figure]:
    """Return prepare, switch, rollback, and what one replaced row adds to the next search."""
    old, new = (
        Contract(name=name, weights=name, preprocessing=None, dim=DIM) for name in ("old", "new")
    )
    rng = np.random.default_rng(0)
    vectors = normalise(rng.standard_normal((ROWS, DIM), dtype=np.float32))
    keys = [f"item {i}" for i in range(ROWS)]
    edge, matrix = _edge(old, new, rng)
    added, timed = [], {name: list[float]() for name in ("switch", "rollback")}
    with Gallery.create(folder / "gallery", old) as gallery:
        gallery.enrol(keys, keys, vectors, old)
        gallery.search(vectors[:1], old)
        for i in range(TIMES):
            plain = min(seconds(lambda: gallery.search(vectors[:1], old)) for _ in range(3))
            row = normalise(rng.standard_normal((1, DIM), dtype=np.float32))
            gallery.enrol([keys[(i * 7919) % ROWS]], ["x"], row, old, replace=True)
            added.append(max(seconds(lambda: gallery.search(vectors[:1], old)) - plain, 1e-6))
        product = min(seconds(lambda: vectors @ matrix) for _ in range(3))
        prepared = seconds(lambda: gallery.prepare(new, edge))
        for i in range(TIMES):
            timed["switch"].append(seconds(lambda: gallery.switch(new, edge)))
            gallery.enrol([keys[i]], ["x"], vectors[i : i + 1], new, replace=True)
            timed["rollback"].append(seconds(gallery.rollback))
    return [
        Figure("switch/prepare", prepared, "s", product, prepared / product),
        *(
            _figure(f"switch/{name}", statistics.median(all_of), SWITCH_SECONDS)
            for name, all_of in timed.items()
        ),
        _figure("switch/replace_one", statistics.median(added), REPLACE_SECONDS),
    ]


def _figure(name: str, value: float, bar: float) -> Figure:
    return Figure(name, value, "s", bar, value / bar)


def _edge(old: Contract, new: Contract, rng: np.random.Generator) -> tuple[Edge, np.ndarray]:
    """Return an edge that maps queries and stored rows, and the map of the rows."""
    query, rows = (LinearMap.of(rng.standard_normal((DIM, DIM))) for _ in range(2))
    edge = Edge(
        from_contract=new,
        to_contract=old,
        result_digest="0" * 64,
        threshold=0.5,
        far=1e-3,
        bridge=Bridge(kind="cca", source=new, target=old, query=query, gallery=rows),
    )
    return edge, rows.arrays[0]
