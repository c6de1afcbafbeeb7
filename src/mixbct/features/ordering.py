"""Which stored items are embedded again first: by a figure a row, the highest first.

The least credible by the old model, and those of the most items a class. How often each was found
is a figure already, and the control is a random one.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int64

from mixbct.features.denoise import mean_distances

Order = Literal["random", "credible", "items", "hits"]
"""The control; least credible first; of the most items first; most searched first."""

Labels = Int64[np.ndarray, " n"]
"""−1: not known; such rows come last."""


def least_credible(vectors: Float[np.ndarray, "n d"], labels: Labels) -> Float32[np.ndarray, " n"]:
    """Return how far rows lie from the mean of their class, 0 to 2; −1 without one.

    Within a class, the highest first is the order in which denoising gives rows up as T falls
    (`denoise.py`).

    Args:
        vectors: of any scale, by one model.
        labels: of their classes.
    """
    distances = np.full(len(labels), -1.0, np.float32)
    if (known := np.flatnonzero(labels >= 0)).size:
        distances[known] = mean_distances(vectors[known], labels[known])
    return distances


def most_items(labels: Labels) -> Int64[np.ndarray, " n"]:
    """Return the place of each item's class, counted from that of the fewest items; −1 without one.

    Items of one class have one place, so that a class is gone through before the next one.
    """
    names, counts = np.unique(labels[labels >= 0], return_counts=True)
    place = np.full(len(names) + 1, -1)  # the last is that of −1
    place[np.argsort(counts, kind="stable")] = np.arange(len(names))
    index = np.where(labels >= 0, np.searchsorted(names, labels), len(names))
    return place[index].astype(np.int64)


def highest_first(figures: Float[np.ndarray, " n"] | Int64[np.ndarray, " n"]) -> Labels:
    """Return rows by a figure, the highest first; of equal ones the earlier."""
    return np.argsort(-figures, kind="stable").astype(np.int64)
