"""Canonical correlations with an old space that was whitened within classes first.

cca shrinks both covariances towards the identity, as if no direction were known to be better than
another. The old model's classes know better: a direction in which its classes are wide is noise. So
its rows are whitened (B = W^(−1/2), see `whiten`), and cca ties the new space to what comes of it;
both steps on the side of rows are one linear map,

    queries (x − μ_x) C_x^(−1/2) U S,        rows (o − μ_o) B C_B^(−1/2) V S,

C_B the shrunk covariance of the whitened rows. Without labels B is of all the covariance.
"""

from dataclasses import replace

import numpy as np

from mixbct.adapters import cca
from mixbct.adapters.moments import Labels, moments
from mixbct.adapters.whiten import SHRINKAGE, whitening
from mixbct.features.bridged import Vectors
from mixbct.schemas.linear_map import LinearMap


def fit(
    source: Vectors, target: Vectors, labels: Labels | None = None, *, shrinkage: float = SHRINKAGE
) -> tuple[LinearMap, LinearMap]:
    """Return the maps of queries and of stored rows.

    Args:
        source: [n, d1] vectors of the model whose queries are mapped.
        target: [n, d2] the same items by the other model, in the same order.
        labels: class of each item; None: the old space is whitened as a whole.
        shrinkage: s in (0, 1], of the whitening and of both covariances of cca.

    Raises:
        FeatureError: see `whiten.fit` and `cca.fit`.
    """
    found = moments(source, target)
    root = whitening(target, labels, shrinkage).arrays[0].astype(np.float64)
    mean, target_covariance = found.target_mean @ root, root.T @ found.target @ root
    whitened = replace(found, target_mean=mean, target=target_covariance, cross=found.cross @ root)
    query, gallery = cca.of_moments(whitened, shrinkage)
    matrix, offset = gallery.arrays
    return query, LinearMap.of(root @ matrix, offset)
