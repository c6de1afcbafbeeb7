"""How what several searches of the same queries found becomes one ranking."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64


def best_of(
    scores: Sequence[Float32[np.ndarray, "q _"]], ids: Sequence[Int64[np.ndarray, "q _"]], k: int
) -> tuple[Float32[np.ndarray, "q k"], Int64[np.ndarray, "q k"]]:
    """Return the k best of several searches of the same queries, best first; ties by id."""
    score, id = np.concatenate(scores, axis=1), np.concatenate(ids, axis=1)
    best = np.lexsort((id, -score))[:, :k]
    return np.take_along_axis(score, best, 1), np.take_along_axis(id, best, 1)
