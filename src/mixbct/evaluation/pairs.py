"""1:1 verification on a list of pairs, such as LFW's: accuracy over folds, TAR at FAR.

Features may be of one model on both sides (self-test) or of the old one for the first image of
each pair and the new one for the second (cross-test).
"""

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from mixbct.data.bank import normalise
from mixbct.errors import DataError, FeatureError
from mixbct.schemas.protocols import Fold

FOLDS = 10


def pair_similarities(
    first: Float[np.ndarray, "n d"],
    second: Float[np.ndarray, "m e"],
    pairs: Int64[np.ndarray, "p 2"],
) -> Float32[np.ndarray, " p"]:
    """Return the cosine of each pair.

    Args:
        first: raw features of every image by the model of the first side.
        second: the same images by the model of the second side (the same array for a self-test).
        pairs: rows of `first` and of `second`.

    Raises:
        FeatureError: the sides differ in dimension, or a feature cannot be normalised.
        DataError: a pair names a row that is not there.
    """
    if first.shape != second.shape:
        raise FeatureError(
            f"features of shapes {first.shape} and {second.shape} cannot be compared: both sides "
            "must be of the same images and of one dimension"
        )
    if len(pairs) and not 0 <= pairs.min() <= pairs.max() < len(first):
        raise DataError(f"pairs name rows {pairs.min()} to {pairs.max()} of {len(first)} images")
    left = normalise(first)
    right = left if second is first else normalise(second)
    return np.asarray(np.einsum("pd,pd->p", left[pairs[:, 0]], right[pairs[:, 1]]))


def best_threshold(scores: Float32[np.ndarray, " p"], same: Bool[np.ndarray, " p"]) -> float:
    """Return the threshold above which accepting gives the best accuracy.

    Exact: every distinct score is tried, and one just below them all. Of thresholds that are
    equally good the highest is taken, which accepts the fewest impostors.
    """
    below_all = np.nextafter(scores.min(), np.float32(-np.inf), dtype=np.float32)
    values = np.unique(np.append(scores, below_all))
    # genuine pairs at or below a threshold are lost there, impostors gained
    genuine, impostor = (np.sort(scores[which]) for which in (same, ~same))
    right = np.searchsorted(impostor, values, "right") - np.searchsorted(genuine, values, "right")
    return float(values[np.flatnonzero(right == right.max())[-1]])


def fold_accuracies(
    scores: Float32[np.ndarray, " p"],
    same: Bool[np.ndarray, " p"],
    fold: Int64[np.ndarray, " p"] | None = None,
) -> tuple[Fold, ...]:
    """Return each fold's accuracy at the best threshold of all other folds.

    Args:
        scores: of the pairs.
        same: whether a pair is genuine.
        fold: the fold of each pair; None for ten runs of neighbouring pairs of equal length (or
            differing by one), as scikit-learn's `KFold` and published scripts cut them.

    Raises:
        DataError: there is only one fold, or fewer pairs than folds.
    """
    if fold is None:
        fold = np.repeat(np.arange(FOLDS), [len(p) for p in np.array_split(scores, FOLDS)])
    numbers = np.unique(fold)
    if len(numbers) < 2 or len(scores) < FOLDS:
        raise DataError(
            f"{len(scores)} pairs in {len(numbers)} folds: at least {FOLDS} pairs in 2 folds are "
            "needed, since a fold's threshold is chosen on the others"
        )
    found = []
    for inside in (fold == number for number in numbers):
        threshold = best_threshold(scores[~inside], same[~inside])
        right = (scores[inside] > np.float32(threshold)) == same[inside]
        found.append(Fold(threshold=threshold, accuracy=float(right.mean())))
    return tuple(found)
