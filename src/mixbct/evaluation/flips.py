"""Negative flips: queries that the old system answered right and the new one does not.

Their share is the negative flip rate of Yan et al., "Positive-Congruent Training: Towards
Regression-Free Model Updates" (CVPR 2021). A model that is better on the whole can be worse for
some, who notice; so they are also counted by identity.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from mixbct.evaluation.bootstrap import estimate, mean_replicates
from mixbct.evaluation.counting import Weights
from mixbct.schemas.result import FlippedClass, Flips

MOST_NAMED = 50


def flips_of(
    ranks: tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]],
    labels: Int64[np.ndarray, " n"],
    weights: Weights,
    names: Sequence[str] = (),
) -> Flips:
    """Return how many mated queries flipped at rank 1, in all and by class.

    Args:
        ranks: before and after, of the first correct item, from 1; 0 where the query has none.
        labels: classes of the queries.
        weights: [r, c] how often each class was drawn in each bootstrap replicate.
        names: of the classes, by label; none: they are called by their labels.
    """
    classes, class_of = np.unique(labels, return_inverse=True)
    mated = ranks[0] > 0
    before, after = (each[mated] == 1 for each in ranks)
    of = class_of[mated].astype(np.int64)
    counts, shares = [], []
    for flipped in (before & ~after, ~before & after):
        counts.append(np.bincount(of, flipped, len(classes)).astype(int))
        drawn = mean_replicates(flipped.astype(np.float64), of, weights)
        shares.append(estimate(float(flipped.mean()), drawn))
    (lost, gained), queries = counts, np.bincount(of, minlength=len(classes))
    # the least net gain first, then the most lost
    worst = [c for c in np.lexsort((-lost, gained - lost)) if lost[c]][:MOST_NAMED]
    return Flips(
        negative=shares[0],
        positive=shares[1],
        classes=int((lost > 0).sum()),
        worst=tuple(
            FlippedClass(
                name=names[classes[c]] if names else str(classes[c]),
                queries=int(queries[c]),
                lost=int(lost[c]),
                gained=int(gained[c]),
            )
            for c in worst
        ),
    )
