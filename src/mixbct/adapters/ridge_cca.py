"""Two spaces side by side: the old one, which ridge reaches, and that of canonical correlations.

    queries   [ridge(x) / r | cca(x) / c]        rows   [y / r' | cca(y) / c']

Each half is divided by its root mean square norm, so that the cosine of the whole is about the mean
of the two cosines. Errors of the two halves differ, and their mean is better than either; it costs
an index of d2 + min(d1, d2) dimensions.
"""

import numpy as np
from jaxtyping import Float64

from mixbct.adapters import cca, ridge
from mixbct.adapters.moments import Labels, Square, moments
from mixbct.features.bridged import Vectors
from mixbct.schemas.linear_map import LinearMap

SHRINKAGE = 0.3


def fit(
    source: Vectors, target: Vectors, labels: Labels | None = None, shrinkage: float = SHRINKAGE
) -> tuple[LinearMap, LinearMap]:
    """Return the maps of queries and of stored rows.

    Args:
        source: [n, d1] vectors of the model whose queries are mapped.
        target: [n, d2] the same items by the other model, in the same order.
        labels: not looked at.
        shrinkage: of cca, in (0, 1].

    Raises:
        FeatureError: see `ridge.fit` and `cca.fit`.
    """
    found = moments(source, target, needed=3)
    to_old, same = ridge.of_moments(found), LinearMap.of(np.eye(target.shape[1]))
    query, gallery = cca.of_moments(found, shrinkage)
    queries = _beside(found.source_mean, found.source, to_old, query)
    return queries, _beside(found.target_mean, found.target, same, gallery)


def _beside(mean: Float64[np.ndarray, " d"], covariance: Square, *halves: LinearMap) -> LinearMap:
    """Return two maps as one, each scaled to vectors of mean square 1."""
    matrices, offsets = [], []
    for half in halves:
        matrix, offset = half.arrays[0].astype(float), half.arrays[1]
        shift = np.zeros(matrix.shape[1]) if offset is None else offset.astype(float)
        centre = mean @ matrix + shift
        scale = np.sqrt(np.trace(matrix.T @ covariance @ matrix) + centre @ centre)
        matrices.append(matrix / scale)
        offsets.append(shift / scale)
    return LinearMap.of(np.hstack(matrices), np.concatenate(offsets))
