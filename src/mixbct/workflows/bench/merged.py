"""Rank merging on a half re-enrolled gallery: the old and the independent model, each on its rows.

What an operator can do with no compatible model at all: embed each query twice, search the old
rows with the old vector and the new rows with the new one, and merge the two lists by rank.
"""

import numpy as np
from jaxtyping import Int64

from mixbct.adapters.rank_merge import ABSENT, merge_ranks
from mixbct.evaluation.bootstrap import Replicates, class_weights, estimate, mean_replicates
from mixbct.evaluation.scores import Pair
from mixbct.evaluation.upgrade import mixed_rows
from mixbct.schemas.result import Estimate

_BLOCK = 64


def rank_merged(
    old: Pair, new: Pair, share: float, seed: int, replicates: int
) -> tuple[dict[str, Estimate], dict[str, Replicates]]:
    """Return mAP and rank-1 of merged lists, and their replicates over the same drawn classes.

    Args:
        old: the deployed model's vectors.
        new: another model's, of the same items.
        share: of the gallery that the new model has enrolled; the same rows as in
            `mixbct.evaluation.upgrade.mixed_sides`.
        seed: of these rows and of the bootstrap.
        replicates: of the bootstrap.
    """
    again = np.zeros(len(old.gallery), dtype=np.bool_)
    again[mixed_rows(len(old.gallery), share, seed)] = True
    places = [
        found
        for start in range(0, len(old.query), _BLOCK)
        for found in _block(old, new, again, slice(start, start + _BLOCK))
    ]
    mated = [found for found in places if len(found)]
    values = {
        "mAP": np.array([np.mean(np.arange(1, len(p) + 1) / (p + 1)) for p in mated]),
        "rank-1": np.array([float(p[0] == 0) for p in mated]),
    }
    classes, class_of = np.unique(old.query.labels, return_inverse=True)
    weights = class_weights(len(classes), replicates, seed)
    of_mated = class_of[[bool(len(found)) for found in places]]
    drawn = {name: mean_replicates(one, of_mated, weights) for name, one in values.items()}
    return {n: estimate(float(v.mean()), drawn[n]) for n, v in values.items()}, drawn


def _block(old: Pair, new: Pair, again: np.ndarray, rows: slice) -> list[Int64[np.ndarray, " p"]]:
    """Return the places of each query's correct items in its merged list, ascending, from 0."""
    lists = []
    for one, which in ((old, ~again), (new, again)):
        scores = one.query.features[rows] @ one.gallery.features[which].T
        lists.append(np.flatnonzero(which)[np.argsort(-scores, axis=1, kind="stable")])
    merged = merge_ranks(lists[0], lists[1], len(again))
    correct = (old.gallery.labels == old.query.labels[rows, None]) & (merged != ABSENT)
    return [np.sort(places[right]) for places, right in zip(merged, correct, strict=True)]
