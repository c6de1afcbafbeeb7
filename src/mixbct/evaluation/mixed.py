"""Galleries that hold vectors of both models, as they are while a backfill is under way.

Where a query map leads from the new to the old space, a score is ⟨f̂, g⟩ for a row g of the new
model and ⟨Q f̂, o⟩ for a row o of the old one. With the queries as [f̂, Q f̂], the rows as [g, 0] and
[0, o], one product gives both.
"""

import numpy as np

from mixbct.distributed import row_rng
from mixbct.evaluation.scores import Embeddings


def mixed_gallery(old: Embeddings, new: Embeddings, share: float, seed: int) -> Embeddings:
    """Return the old gallery with a random `share` of its rows from the new model."""
    order = row_rng(seed, len(old)).permutation(len(old))
    again = order[: round(share * len(old))]
    features = old.features.copy()
    features[again] = new.features[again]
    return Embeddings(features, old.labels)


def side_by_side(new: Embeddings, mapped: Embeddings) -> Embeddings:
    """Return queries against `gallery_of_spaces`.

    Args:
        new: as the new model embeds them.
        mapped: the same queries in the old space.
    """
    return Embeddings(np.hstack([new.features, mapped.features]), new.labels, spaces=2)


def gallery_of_spaces(old: Embeddings, new: Embeddings, share: float, seed: int) -> Embeddings:
    """Return the same rows as `mixed_gallery`, each in the coordinates of its own space."""
    apart = np.zeros((len(old), new.dim + old.dim), np.float32)
    enrolled = apart.copy()
    enrolled[:, : new.dim] = new.features
    apart[:, new.dim :] = old.features
    return mixed_gallery(
        Embeddings(apart, old.labels), Embeddings(enrolled, old.labels), share, seed
    )
