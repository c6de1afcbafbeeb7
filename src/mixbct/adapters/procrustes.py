"""Orthogonal Procrustes: the rotation that brings one model's vectors closest to another's.

Minimise ‖X R − Y‖ over R with orthonormal columns or rows: R = U Vᵀ, where U Σ Vᵀ is the
singular value decomposition of Xᵀ Y (Schönemann, "A generalized solution of the orthogonal
Procrustes problem", Psychometrika 31, 1966).
"""

import numpy as np

from mixbct.adapters.moments import Pairs, moments
from mixbct.schemas.linear_map import LinearMap


def fit(pairs: Pairs, centre: bool = False) -> tuple[LinearMap, None]:
    """Return the map of queries; rows stay as they are. Labels play no part.

    With d1 > d2 the map is the best one by inner products, not by distances; for unit vectors
    that are compared by their cosine the former is what counts.

    Args:
        pairs: see `Pairs`.
        centre: fit around the means of both sides.

    Raises:
        FeatureError: the counts differ, or there are fewer rows than the smaller dimension (one
            more where centred), which leaves the rotation open.
    """
    found = moments(pairs, min(pairs.dims) + centre)
    means = found.source_mean, found.target_mean
    cross = found.cross if centre else found.cross + np.outer(*means)
    left, _, right = np.linalg.svd(cross, full_matrices=False)
    rotation = left @ right
    return LinearMap.of(rotation, means[1] - means[0] @ rotation if centre else None), None
