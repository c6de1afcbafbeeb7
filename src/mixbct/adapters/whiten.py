"""Whitening: one old space, compared where what is not worth comparing weighs less.

    y ↦ (y − μ) W^(−1/2),      W = (1 − s) C + s·tr(C)/d·I

C is the covariance within classes where they are known, so that directions in which images of one
class differ count less, and all of the covariance where they are not. Queries and stored rows go
through the same map, so that both must lie in one space: the old model's own queries do, and those
of a model that was trained to be compatible.
"""

from mixbct.adapters.moments import Labels, Maps, Pairs, inverse_root, within_classes
from mixbct.distributed import ALONE, World
from mixbct.errors import FeatureError
from mixbct.features.bridged import Vectors
from mixbct.schemas.linear_map import LinearMap

SHRINKAGE = 0.3


def fit(pairs: Pairs, shrinkage: float = SHRINKAGE) -> Maps:
    """Return the one map for both sides; of the new vectors only the dimension counts.

    Where no class has two different vectors it is as without labels.

    Args:
        pairs: see `Pairs`.
        shrinkage: s in (0, 1], towards leaving the space as it is.

    Raises:
        FeatureError: the dimensions or counts differ, there are fewer than two rows, the rows are
            all alike, or the shrinkage is out of range.
    """
    if pairs.dims[0] != pairs.dims[1]:
        raise FeatureError(
            f"whitening compares two models in one space, not queries of {pairs.dims[0]} "
            f"dimensions with rows of {pairs.dims[1]}: fit cca or ridge"
        )
    pairs.check(needed=2)
    found = whitening(pairs.target, pairs.labels, shrinkage)
    return found, found


def whitening(
    vectors: Vectors, labels: Labels | None, shrinkage: float, world: World = ALONE
) -> LinearMap:
    """Return the whitening of one model's vectors, see `fit`; `world` shares the pass over them."""
    mean, covariance = within_classes(vectors, labels, world)
    root = inverse_root(covariance, shrinkage)
    return LinearMap.of(root, -mean @ root)
