"""Canonical correlations: both sides into the space of what the two models agree on.

With X and Y the centred vectors of the same items, C_x, C_y and C_xy their covariances (the first
two shrunk), and U S Vᵀ = svd(C_x^(−1/2) C_xy C_y^(−1/2)):

    queries   (x − μ_x) C_x^(−1/2) U S        rows   (y − μ_y) C_y^(−1/2) V S

Each of the min(d1, d2) coordinates weighs its canonical correlation, on both sides (Hotelling,
"Relations between two sets of variates", Biometrika 28, 1936). Labels play no part.
"""

import numpy as np

from mixbct.adapters.moments import Labels, Moments, inverse_root, moments
from mixbct.features.bridged import Vectors
from mixbct.schemas.linear_map import LinearMap

SHRINKAGE = 0.1


def fit(
    source: Vectors, target: Vectors, labels: Labels | None = None, shrinkage: float = SHRINKAGE
) -> tuple[LinearMap, LinearMap]:
    """Return the maps of queries and of stored rows.

    Args:
        source: [n, d1] vectors of the model whose queries are mapped.
        target: [n, d2] the same items by the other model, in the same order.
        labels: not looked at.
        shrinkage: s in (0, 1], towards a covariance that is alike in all directions.

    Raises:
        FeatureError: the counts differ, there are fewer than two rows, the rows of a side are all
            alike, or the shrinkage is out of range.
    """
    return of_moments(moments(source, target), shrinkage)


def of_moments(found: Moments, shrinkage: float) -> tuple[LinearMap, LinearMap]:
    """Return the maps of queries and of stored rows; see `fit`."""
    left, right = inverse_root(found.source, shrinkage), inverse_root(found.target, shrinkage)
    u, s, vt = np.linalg.svd(left @ found.cross @ right, full_matrices=False)
    query, gallery = left @ u * s, right @ vt.T * s
    queries = LinearMap.of(query, -found.source_mean @ query)
    return queries, LinearMap.of(gallery, -found.target_mean @ gallery)
