"""Orthogonal Procrustes: the rotation that brings one model's vectors closest to another's.

Minimise ‖X R − Y‖ over R with orthonormal columns or rows: R = U Vᵀ, where U Σ Vᵀ is the
singular value decomposition of Xᵀ Y (Schönemann, "A generalized solution of the orthogonal
Procrustes problem", Psychometrika 31, 1966).
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from mixbct.adapters.adapter import check_dimension, check_pairs, read_tensors, write_tensors
from mixbct.data.bank import normalise
from mixbct.schemas.linear_map import LinearMap

_CHUNK = 8192


class Procrustes:
    """A fitted map from one embedding space into another.

    Args:
        rotation: [d1, d2], orthonormal columns where d1 ≥ d2, rows otherwise.
        source_mean: [d1], subtracted before the rotation.
        target_mean: [d2], added after it.
    """

    def __init__(
        self,
        rotation: Float32[np.ndarray, "d1 d2"],
        source_mean: Float32[np.ndarray, " d1"],
        target_mean: Float32[np.ndarray, " d2"],
    ) -> None:
        self.rotation = rotation
        self.source_mean = source_mean
        self.target_mean = target_mean

    @property
    def dims(self) -> tuple[int, int]:
        """Return the dimensions that it takes and that it gives."""
        return len(self.source_mean), len(self.target_mean)

    @classmethod
    def fit(
        cls,
        source: Float32[np.ndarray, "n d1"],
        target: Float32[np.ndarray, "m d2"],
        centre: bool = False,
    ) -> "Procrustes":
        """Fit the map on the same items embedded by both models.

        With d1 > d2 the map is the best one by inner products, not by distances; for unit
        vectors that are compared by their cosine the former is what counts.

        Args:
            source: n normalised rows.
            target: the same items, in the same order, normalised.
            centre: fit around the means of both sides.

        Raises:
            FeatureError: the counts differ, or there are fewer rows than the smaller dimension
                (one more where centred), which leaves the rotation open.
        """
        check_pairs(source, target, min(source.shape[1], target.shape[1]) + centre)
        source_mean = source.mean(axis=0, dtype=np.float64) * centre
        target_mean = target.mean(axis=0, dtype=np.float64) * centre
        covariance: Float64[np.ndarray, "d1 d2"] = np.zeros((source.shape[1], target.shape[1]))
        # in chunks, so that the float64 copies stay small
        for start in range(0, len(source), _CHUNK):
            rows = slice(start, start + _CHUNK)
            covariance += (source[rows] - source_mean).T @ (target[rows] - target_mean)
        left, _, right = np.linalg.svd(covariance, full_matrices=False)
        return cls(
            (left @ right).astype(np.float32),
            source_mean.astype(np.float32),
            target_mean.astype(np.float32),
        )

    def transform(self, features: Float32[np.ndarray, "n d1"]) -> Float32[np.ndarray, "n d2"]:
        """Return the rows in the target's space, normalised; see `Adapter.transform`."""
        check_dimension(features, len(self.source_mean))
        return normalise((features - self.source_mean) @ self.rotation + self.target_mean)

    def linear_map(self) -> LinearMap:
        """Return the map that `transform` applies before it normalises."""
        return LinearMap.of(self.rotation, self.target_mean - self.source_mean @ self.rotation)

    def save(self, path: Path) -> None:
        """Write the map to one safetensors file."""
        tensors = {
            "rotation": self.rotation,
            "source_mean": self.source_mean,
            "target_mean": self.target_mean,
        }
        write_tensors(path, tensors)

    @classmethod
    def load(cls, path: Path) -> "Procrustes":
        """Read a map that `save` wrote; see `Adapter.load`."""
        return cls(**read_tensors(path, {"rotation": 2, "source_mean": 1, "target_mean": 1}))
