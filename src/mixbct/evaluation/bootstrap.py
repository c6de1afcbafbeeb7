"""Bootstrap intervals: query classes are drawn anew with replacement, the gallery stays.

Pairs of one class are not independent of each other, so whole classes are drawn, not pairs or
queries (Bolle, Ratha and Pankanti, "Error analysis of pattern recognition systems", 2004). One
set of weights serves every combination, which makes differences between them paired.

A model that is better on the whole can be worse for some, who notice. So negative flips, queries
that the old system answered right and the new one does not, are counted by identity as well; their
share is the negative flip rate of Yan et al., "Positive-Congruent Training: Towards Regression-Free
Model Updates" (CVPR 2021).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from mixbct.distributed import row_rng
from mixbct.errors import DataError
from mixbct.evaluation.comparison import Comparison
from mixbct.evaluation.tally import Weights
from mixbct.schemas.result import Estimate, FlippedClass, Flips, tar_name

REPLICATES = 1000
MOST_NAMED = 50
_MOST_NUMBERS = 2**22

Replicates = Float64[np.ndarray, " r"]


def class_weights(
    classes: int, replicates: int, seed: int, half: Bool[np.ndarray, " c"] | None = None
) -> UInt8[np.ndarray, "r c"]:
    """Return how often each class is drawn in each replicate; every row sums to `classes`.

    Where some classes are marked as a half, they are a last row beside the replicates.
    """
    rng = row_rng(seed, replicates)
    chance = np.full(classes, 1 / classes)
    rows_in_all = replicates + (half is not None)
    weights = np.empty((rows_in_all, classes), np.uint8)  # 255 times the expected never happens
    drawn = weights[:replicates]
    for rows in _some(replicates, classes):
        drawn[rows] = rng.multinomial(classes, chance, size=len(drawn[rows]))
    if half is not None:
        weights[-1] = half
    return weights


def replicate_metrics(comparison: Comparison) -> dict[str, Replicates]:
    """Return every figure of every replicate, by the names of `Combination.metrics`.

    A replicate that drew no query with its class in the gallery has no figure: NaN. Its TAR is one
    at a threshold set anew for that replicate. The lowest edge with a FAR of at most the wanted one
    is exact where every impostor score near it is an edge. Where scores between it and the next
    lower edge were skipped, it lies up to one step too high, and the TAR is taken on the line
    between the two.
    """
    mated = comparison.mated
    values = {"mAP": comparison.average_precision}
    values |= {f"rank-{k}": (comparison.rank <= k).astype(np.float64) for k in (1, 5)}
    figures = {
        name: mean_replicates(one[mated], comparison.class_of[mated], comparison.weights)
        for name, one in values.items()
    }
    with np.errstate(invalid="ignore"):
        tar, far = (above / above[:, :1] for above in comparison.drawn_above)
    rows = np.arange(len(far))
    for wanted in (threshold.far for threshold in comparison.thresholds):
        edge = (far > wanted).sum(axis=1)
        here, below = tar[rows, edge], tar[rows, edge - 1]
        rise = (wanted - far[rows, edge]) / (far[rows, edge - 1] - far[rows, edge])
        figures[tar_name(wanted)] = here + comparison.skipped[edge - 1] * rise * (below - here)
    return figures


def mean_replicates(
    values: Float64[np.ndarray, " n"], class_of: Int64[np.ndarray, " n"], weights: Weights
) -> Replicates:
    """Return the mean over queries in every replicate; NaN where it drew none of them."""
    counts = np.bincount(class_of, minlength=weights.shape[1])
    sums = np.bincount(class_of, values, minlength=weights.shape[1])
    found = np.empty(len(weights))
    with np.errstate(invalid="ignore"):
        for rows in _some(*weights.shape):
            drawn = weights[rows].astype(np.float64)
            found[rows] = drawn @ sums / (drawn @ counts)
    return found


def _some(rows: int, columns: int) -> list[slice]:
    """Return runs of rows, few enough for numbers of eight bytes to take 32 MiB at most."""
    size = max(1, _MOST_NUMBERS // columns)
    return [slice(start, start + size) for start in range(0, rows, size)]


def estimate(value: float, replicates: Replicates) -> Estimate:
    """Return `value` with the 2.5th and the 97.5th percentile of its replicates (NaN left out).

    The interval is widened to hold `value`: a TAR that hangs on the few highest impostor scores
    is never lower in a replicate, since a replicate can only lose these.

    Raises:
        DataError: no replicate has a figure.
    """
    if np.isnan(replicates).all():
        raise DataError(
            f"none of {len(replicates)} bootstrap replicates has the figure {value:g}: the test "
            "set has too few classes for an interval; add some"
        )
    low, high = np.nanpercentile(replicates, (2.5, 97.5))
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))


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
