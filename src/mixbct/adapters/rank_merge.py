"""Rank merging: search the old and the new index, and interleave what both found.

The untrained way to serve a gallery that two models have indexed: each query is embedded by
both, each index is searched with vectors of its own, and the two lists are merged by rank, since
their scores cannot be compared. An item that both lists have keeps its better place; of two
items with the same rank that of the first list comes first.
"""

import numpy as np
from jaxtyping import Int64

ABSENT = -1

Ranks = Int64[np.ndarray, "q items"]
"""Rank of each item for each query, 0 the best; `ABSENT` where the list does not have it."""


def ranks_of(found: Int64[np.ndarray, "q k"], items: int) -> Ranks:
    """Turn lists of item numbers, best first, into ranks.

    Args:
        found: items in [0, items), each at most once a query; `ABSENT` pads a short list.
        items: how many there are in all.
    """
    ranks = np.full((len(found), items + 1), ABSENT, dtype=np.int64)
    places = np.broadcast_to(np.arange(found.shape[1]), found.shape)
    # what pads goes to the last column, which is dropped
    np.put_along_axis(ranks, np.where(found == ABSENT, items, found), places, axis=1)
    return ranks[:, :items]


def merge_ranks(first: Ranks, second: Ranks) -> Ranks:
    """Return each item's rank in the merged list; `ABSENT` where neither list has it."""
    last = 2 * first.shape[1]
    # first list's ranks 0, 1, … come to places 0, 2, …, the second's to 1, 3, …: no two alike
    places = np.minimum(
        np.where(first == ABSENT, last, 2 * first), np.where(second == ABSENT, last, 2 * second + 1)
    )
    order = np.argsort(places, axis=1, kind="stable")
    merged = np.empty_like(order)
    ranks = np.broadcast_to(np.arange(order.shape[1]), order.shape)
    np.put_along_axis(merged, order, ranks, axis=1)
    return np.where(places == last, ABSENT, merged)
