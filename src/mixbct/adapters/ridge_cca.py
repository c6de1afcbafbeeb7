"""Two spaces side by side: the old one, which ridge reaches, and that of canonical correlations.

    queries   [ridge(x) / r | cca(x) / c]        rows   [y / r' | cca(y) / c']

Each half is divided by its root mean square norm, so that the cosine of the whole is about the mean
of the two cosines. Errors of the two halves differ, and their mean is better than either; it costs
an index of d2 + min(d1, d2) dimensions.
"""

import numpy as np

from mixbct.adapters import cca, ridge
from mixbct.adapters.beside import beside
from mixbct.adapters.moments import Labels, moments
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
    return (
        beside((to_old, query), found.source_mean, found.source),
        beside((same, gallery), found.target_mean, found.target),
    )
