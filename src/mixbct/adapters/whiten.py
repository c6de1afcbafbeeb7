"""Whitening: one old space, compared where what is not worth comparing weighs less.

    y ↦ (y − μ) W^(−1/2),      W = (1 − s) C + s·tr(C)/d·I

C is the covariance within classes where they are known, so that directions in which images of one
class differ count less, and all of the covariance where they are not. Queries and stored rows go
through the same map, so that both must lie in one space: the old model's own queries do, and those
of a model that was trained to be compatible.
"""

from mixbct.adapters.moments import LEAST, Labels, check_pairs, inverse_root, within_classes
from mixbct.errors import FeatureError
from mixbct.features.bridged import Vectors
from mixbct.schemas.linear_map import LinearMap

SHRINKAGE = 0.3


def fit(
    source: Vectors, target: Vectors, labels: Labels | None = None, shrinkage: float = SHRINKAGE
) -> tuple[LinearMap, LinearMap]:
    """Return the one map for both sides.

    Args:
        source: [n, d] vectors of the model whose queries are mapped; only their dimension counts.
        target: [n, d] vectors of the model whose rows are stored.
        labels: class of each item; where no class has two different vectors, as without.
        shrinkage: s in (0, 1], towards leaving the space as it is.

    Raises:
        FeatureError: the dimensions or counts differ, there are fewer than two rows, the rows are
            all alike, or the shrinkage is out of range.
    """
    if source.shape[1] != target.shape[1]:
        raise FeatureError(
            f"whitening compares two models in one space, not queries of {source.shape[1]} "
            f"dimensions with rows of {target.shape[1]}: fit cca or ridge"
        )
    check_pairs(source, target, needed=2)
    found = whitening(target, labels, shrinkage)
    return found, found


def whitening(vectors: Vectors, labels: Labels | None, shrinkage: float) -> LinearMap:
    """Return the whitening of one model's vectors; see `fit`."""
    mean, covariance = within_classes(vectors, labels)
    if labels is not None and covariance.trace() < vectors.shape[1] * LEAST:
        mean, covariance = within_classes(vectors, None)
    root = inverse_root(covariance, shrinkage)
    return LinearMap.of(root, -mean @ root)
