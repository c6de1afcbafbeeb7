"""Exact thresholds at a false-accept rate, for any number of pairs.

The counts at the grid's edges say between which two of them a threshold lies. One more walk
over the pairs keeps only the scores between those two, and the threshold is one of these.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from mixbct.evaluation.scores import BUDGET, Embeddings, genuine_counts, pair_blocks


@dataclass(frozen=True)
class Threshold:
    """Accepting every score above `value` gives the largest TAR with a FAR of at most `far`.

    Args:
        far: the rate asked for.
        value: the (⌊far · impostor pairs⌋ + 1)-th largest impostor score.
        genuine: how many genuine pairs it accepts.
        impostors: how many impostor pairs it accepts.
        resolved: there are at least 1/far impostor pairs.
    """

    far: float
    value: float
    genuine: int
    impostors: int
    resolved: bool


def allowed_impostors(far: float, pairs: int) -> int:
    """Return the largest k with k / pairs ≤ far.

    >>> allowed_impostors(0.29, 100)
    29
    """
    # far * pairs may fall on either side of an integer; the quotient decides
    allowed = math.floor(far * pairs) + 1
    while allowed / pairs > far:
        allowed -= 1
    return allowed


def exact_thresholds(
    query: Embeddings,
    gallery: Embeddings,
    fars: tuple[float, ...],
    edges: Float32[np.ndarray, " e"],
    genuine_above: Int64[np.ndarray, " e"],
    impostor_above: Int64[np.ndarray, " e"],
    budget: int = BUDGET,
) -> tuple[Threshold, ...]:
    """Return the exact threshold at each rate.

    Args:
        query: the queries.
        gallery: the gallery.
        fars: rates in (0, 1).
        edges: ascending, from −inf to +inf.
        genuine_above: how many genuine scores lie above each edge.
        impostor_above: how many impostor scores lie above each edge.
        budget: bytes for a block, the one that the counts were made with.
    """
    pairs = int(impostor_above[0])
    allowed = [allowed_impostors(far, pairs) for far in fars]
    # the first edge above which no more than allowed lie; the threshold is at most that high
    upper = [int(np.argmax(impostor_above <= k)) for k in allowed]
    brackets = [(edges[i - 1], edges[i]) for i in upper]
    lowest = float(min(low for low, _ in brackets))
    genuine: list[list[np.ndarray]] = [[] for _ in fars]
    impostors: list[list[np.ndarray]] = [[] for _ in fars]
    for block in pair_blocks(query, gallery, budget):
        for scores, kept in ((block.genuine, genuine), (block.impostor, impostors)):
            candidates = scores[scores > lowest].numpy()
            for (low, high), inside in zip(brackets, kept, strict=True):
                # ties at the upper edge may be most of the pairs: counted below, not kept
                inside.append(candidates[(candidates > low) & (candidates < high)])
    found = []
    for far, k, i, ours, others in zip(fars, allowed, upper, genuine, impostors, strict=True):
        between = np.sort(np.concatenate(others))[::-1]
        at_least = int(impostor_above[i - 1]) - len(between)
        if k < at_least:
            value, impostor, accepted = edges[i], int(impostor_above[i]), int(genuine_above[i])
        else:
            value = between[k - at_least]
            impostor = at_least + int((between > value).sum())
            own = np.concatenate(ours)
            accepted = int(genuine_above[i - 1]) - int((own <= value).sum())
        found.append(Threshold(far, float(value), accepted, impostor, far * pairs >= 1))
    return tuple(found)


def false_accept_rate(
    query: Embeddings, gallery: Embeddings, threshold: float, budget: int = BUDGET
) -> float:
    """Return the share of impostor pairs that score above `threshold`."""
    accepted = sum(
        int((block.impostor > threshold).sum()) for block in pair_blocks(query, gallery, budget)
    )
    pairs = len(query) * len(gallery) - int(genuine_counts(query, gallery).sum())
    return accepted / pairs
