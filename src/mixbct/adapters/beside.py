"""Two spaces side by side: the cosine of the whole is about the mean of the two cosines.

Errors of two ways to compare the same vectors differ, and their mean is often better than either.
"""

import numpy as np
from jaxtyping import Float64

from mixbct.schemas.linear_map import LinearMap


def beside(
    halves: tuple[LinearMap, LinearMap],
    mean: Float64[np.ndarray, " d"],
    covariance: Float64[np.ndarray, "d d"],
) -> LinearMap:
    """Return two maps of the same vectors as one: to both spaces, each at a mean square of 1.

    Args:
        halves: the maps.
        mean: of the vectors.
        covariance: of them.
    """
    matrices, offsets = [], []
    for half in halves:
        matrix, offset = half.arrays[0].astype(float), half.arrays[1]
        shift = np.zeros(matrix.shape[1]) if offset is None else offset.astype(float)
        centre = mean @ matrix + shift
        scale = np.sqrt(np.trace(matrix.T @ covariance @ matrix) + centre @ centre)
        matrices.append(matrix / scale)
        offsets.append(shift / scale)
    return LinearMap.of(np.hstack(matrices), np.concatenate(offsets))
