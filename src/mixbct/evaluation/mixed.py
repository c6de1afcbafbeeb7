"""Galleries of two models' rows, as one fills with vectors of the new model."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Int64

from mixbct.distributed import row_rng
from mixbct.evaluation.scores import Embeddings, Pair

Line = tuple[float, float]
"""Begin and width of a scale."""


def mixed_sides(
    new: Pair,
    cross: Pair,
    shares: Sequence[float],
    order: Int64[np.ndarray, " n"],
    own: Line,
    between: Line,
) -> dict[str, list[Pair]]:
    """Return galleries of which a share is enrolled again by the new model, by name.

    Each is in parts, by the new model and of the old one's rows, and galleries of several shares
    have parts in common. A part is searched with the queries that its rows are compared with, and
    ranked as a gallery ranks them: by scores on one scale.

    Args:
        new: the new model's queries and rows.
        cross: its queries and the old rows as they meet.
        shares: of the rows.
        order: of all rows; those of a smaller share belong to every larger one.
        own: the scale of new queries against new rows (see `Calibration.line`).
        between: that of new queries against old rows.
    """
    items = len(cross.gallery)
    cuts = [0, *sorted({round(share * items) for share in shares} - {0, items}), items]
    size = min(width / np.hypot(1, begin) for begin, width in (own, between))
    news, crosses = (
        [_on_scale(pair, np.sort(order[start:stop]), line, size) for start, stop in pairwise(cuts)]
        for pair, line in ((new, own), (cross, between))
    )
    places = {share: cuts.index(round(share * items)) for share in shares}
    return {f"new/{100 * share:g} % new": news[:n] + crosses[n:] for share, n in places.items()}


def _on_scale(pair: Pair, rows: Int64[np.ndarray, " k"], line: Line, size: float) -> Pair:
    """Return queries and some rows whose cosines are `size`·(score − begin)/width, over √2.

    What is added to a row's score stands behind it, and then what makes it a unit vector.
    """
    begin, width = line
    times, added = size / width, -size * begin / width
    some, queries = pair.gallery.features[rows], pair.query.features
    behind = np.array([[added, np.sqrt(max(0, 1 - times**2 - added**2))]], np.float32)
    mapped = np.hstack([np.float32(times) * some, np.repeat(behind, len(rows), axis=0)])
    ends = np.array([[1, 0]], np.float32).repeat(len(queries), axis=0)
    searched = np.hstack([queries, ends]) / np.float32(np.sqrt(2))
    return Pair(
        Embeddings(searched, pair.query.labels), Embeddings(mapped, pair.gallery.labels[rows])
    )


def mixed_rows(rows: int, share: float, seed: int) -> Int64[np.ndarray, " k"]:
    """Return which rows of a gallery the new model has enrolled; smaller shares lie in larger."""
    return row_rng(seed, rows).permutation(rows)[: round(share * rows)].astype(np.int64)
