"""How what several searches of the same queries found becomes one ranking."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64


def best_of(
    scores: Sequence[Float32[np.ndarray, "q _"]], ids: Sequence[Int64[np.ndarray, "q _"]], k: int
) -> tuple[Float32[np.ndarray, "q k"], Int64[np.ndarray, "q k"]]:
    """Return the k best of several searches of the same queries, best first."""
    score, id = best_by(scores, [scores, ids], k)
    return score, id


def best_by(
    ranked: Sequence[np.ndarray], parts: Sequence[Sequence[np.ndarray]], k: int
) -> list[np.ndarray]:
    """Return each of `parts` ([q, n] of every search) of the k highest in `ranked`, best first."""
    best = np.argsort(-np.concatenate(ranked, axis=1), axis=1, kind="stable")[:, :k]
    return [np.take_along_axis(np.concatenate(part, axis=1), best, 1) for part in parts]
