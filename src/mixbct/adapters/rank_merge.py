"""Rank merging: search the old and the new index, and interleave what both found.

The untrained way to serve a gallery that two models have indexed: each query is embedded by
both, each index is searched with vectors of its own, and the two lists are merged by rank, since
their scores cannot be compared. An item that both lists have keeps its better place; of two
items with the same rank that of the first list comes first.
"""

import numpy as np
from jaxtyping import Int64

ABSENT = -1


def merge_ranks(
    first: Int64[np.ndarray, "q k"], second: Int64[np.ndarray, "q l"], items: int
) -> Int64[np.ndarray, "q items"]:
    """Return each item's rank in the merged list, 0 the best; `ABSENT` where neither list has it.

    Args:
        first: items in [0, items) that each query found, best first, each at most once.
        second: the same of the other index.
        items: how many there are in all.
    """
    last = 2 * items
    places = np.full((len(first), items), last, dtype=np.int64)
    for side, found in enumerate((first, second)):
        own = np.full_like(places, last)
        # one list's ranks 0, 1, … come to places 0, 2, …, the other's to 1, 3, …: no two alike
        turns = np.broadcast_to(2 * np.arange(found.shape[1]) + side, found.shape)
        np.put_along_axis(own, found, turns, axis=1)
        np.minimum(places, own, out=places)
    ranks = places.argsort(axis=1, kind="stable").argsort(axis=1)
    return np.where(places == last, ABSENT, ranks)
