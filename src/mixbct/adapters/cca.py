"""Canonical correlations: both sides into the space of what the two models agree on.

With X and Y the centred vectors of the same items, C_x, C_y and C_xy their covariances (the first
two shrunk), and U S Vᵀ = svd(C_x^(−1/2) C_xy C_y^(−1/2)):

    queries   (x − μ_x) C_x^(−1/2) U S        rows   (y − μ_y) C_y^(−1/2) V S

Each of the min(d1, d2) coordinates weighs its canonical correlation, on both sides (Hotelling,
"Relations between two sets of variates", Biometrika 28, 1936). Labels play no part.

`fit_beside_ridge` compares in two spaces side by side: the old one, which ridge reaches, and this,

    queries   [ridge(x) / r | cca(x) / c]        rows   [y / r' | cca(y) / c']

each half divided by its root mean square norm; it costs an index of d2 + min(d1, d2) dimensions.

`fit_whitened` does not shrink as if no direction were known to be better than another: one in
which the old model's classes are wide is noise. So its rows are whitened (B = W^(−1/2), see
`whiten`), and cca ties the new space to what comes of it; both steps on the side of rows are one
linear map,

    queries (x − μ_x) C_x^(−1/2) U S,        rows (o − μ_o) B C_B^(−1/2) V S,

C_B the shrunk covariance of the whitened rows. Without labels B is of all the covariance.
"""

from dataclasses import replace

import numpy as np

from mixbct.adapters import ridge
from mixbct.adapters.moments import Maps, Moments, Pairs, beside, inverse_root, moments
from mixbct.adapters.whiten import whitening
from mixbct.schemas.linear_map import LinearMap


def fit(pairs: Pairs, shrinkage: float = 0.1) -> Maps:
    """Return the maps of queries and of stored rows.

    Args:
        pairs: see `Pairs`.
        shrinkage: s in (0, 1], towards a covariance that is alike in all directions.

    Raises:
        FeatureError: the counts differ, there are fewer than two rows, the rows of a side are all
            alike, or the shrinkage is out of range.
    """
    return of_moments(moments(pairs), shrinkage)


def of_moments(found: Moments, shrinkage: float) -> tuple[LinearMap, LinearMap]:
    """Return the maps of queries and of stored rows; see `fit`."""
    left, right = inverse_root(found.source, shrinkage), inverse_root(found.target, shrinkage)
    u, s, vt = np.linalg.svd(left @ found.cross @ right, full_matrices=False)
    query, gallery = left @ u * s, right @ vt.T * s
    queries = LinearMap.of(query, -found.source_mean @ query)
    return queries, LinearMap.of(gallery, -found.target_mean @ gallery)


def fit_beside_ridge(pairs: Pairs, shrinkage: float = 0.3) -> Maps:
    """Return the maps of queries and of stored rows to both spaces; see `fit`."""
    found = moments(pairs, needed=3)
    to_old, same = ridge.of_moments(found), LinearMap.of(np.eye(pairs.dims[1]))
    query, gallery = of_moments(found, shrinkage)
    return (
        beside((to_old, query), found.source_mean, found.source),
        beside((same, gallery), found.target_mean, found.target),
    )


def fit_whitened(pairs: Pairs, shrinkage: float = 0.3) -> Maps:
    """Return the maps of queries and of stored rows; `shrinkage` is also that of the whitening."""
    found = moments(pairs)
    root = whitening(pairs.target, pairs.labels, shrinkage).arrays[0].astype(np.float64)
    mean, covariance = found.target_mean @ root, root.T @ found.target @ root
    whitened = replace(found, target_mean=mean, target=covariance, cross=found.cross @ root)
    query, gallery = of_moments(whitened, shrinkage)
    matrix, offset = gallery.arrays
    return query, LinearMap.of(root @ matrix, offset)
