"""Ridge regression: the linear map with least squared error, held small.

Minimise ‖X M − Y‖² + λ‖M‖² over M, around the means of both sides. λ is chosen by generalised
cross-validation among values relative to the mean eigenvalue of XᵀX: it minimises
(1/n)‖Y − Ŷ‖² / (1 − (1 + Σ_k s_k/(s_k + λ))/n)², s the eigenvalues, the 1 for the mean (Golub,
Heath and Wahba, "Generalized Cross-Validation as a Method for Choosing a Good Ridge Parameter",
Technometrics 21, 1979).
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from mixbct.adapters.adapter import (
    check_dimension,
    check_pairs,
    read_tensors,
    write_tensors,
)
from mixbct.data.bank import normalise
from mixbct.schemas.linear_map import LinearMap

_CHUNK = 8192
CANDIDATES = np.logspace(-6, 2, 33)
"""Values of λ to choose from, as multiples of the mean eigenvalue of XᵀX."""


class Ridge:
    """A fitted map from one embedding space into another.

    Args:
        weights: [d1, d2].
        source_mean: [d1], subtracted before.
        target_mean: [d2], added after.
    """

    def __init__(
        self,
        weights: Float32[np.ndarray, "d1 d2"],
        source_mean: Float32[np.ndarray, " d1"],
        target_mean: Float32[np.ndarray, " d2"],
    ) -> None:
        self.weights = weights
        self.source_mean = source_mean
        self.target_mean = target_mean

    @property
    def dims(self) -> tuple[int, int]:
        """Return the dimensions that it takes and that it gives."""
        return len(self.source_mean), len(self.target_mean)

    @classmethod
    def fit(
        cls, source: Float32[np.ndarray, "n d1"], target: Float32[np.ndarray, "m d2"]
    ) -> "Ridge":
        """Fit the map on the same items embedded by both models; see `Adapter.fit`.

        Raises:
            FeatureError: the counts differ, or there are fewer than three rows.
        """
        check_pairs(source, target, needed=3)
        source_mean = source.mean(axis=0, dtype=np.float64)
        target_mean = target.mean(axis=0, dtype=np.float64)
        gram: Float64[np.ndarray, "d1 d1"] = np.zeros((source.shape[1], source.shape[1]))
        cross: Float64[np.ndarray, "d1 d2"] = np.zeros((source.shape[1], target.shape[1]))
        energy = 0.0
        # in chunks, so that the float64 copies stay small
        for start in range(0, len(source), _CHUNK):
            x = source[start : start + _CHUNK] - source_mean
            y = target[start : start + _CHUNK] - target_mean
            gram += x.T @ x
            cross += x.T @ y
            energy += float(np.square(y).sum())
        values, vectors = np.linalg.eigh(gram)
        values = values.clip(min=0)
        rotated = vectors.T @ cross
        strength = choose_strength(values, np.square(rotated).sum(axis=1), energy, len(source))
        weights = vectors @ (rotated / (values + strength)[:, None])
        return cls(
            weights.astype(np.float32),
            source_mean.astype(np.float32),
            target_mean.astype(np.float32),
        )

    def transform(self, features: Float32[np.ndarray, "n d1"]) -> Float32[np.ndarray, "n d2"]:
        """Return the rows in the target's space, normalised; see `Adapter.transform`."""
        check_dimension(features, len(self.source_mean))
        return normalise((features - self.source_mean) @ self.weights + self.target_mean)

    def linear_map(self) -> LinearMap:
        """Return the map that `transform` applies before it normalises."""
        return LinearMap.of(self.weights, self.target_mean - self.source_mean @ self.weights)

    def save(self, path: Path) -> None:
        """Write the map to one safetensors file."""
        tensors = {
            "weights": self.weights,
            "source_mean": self.source_mean,
            "target_mean": self.target_mean,
        }
        write_tensors(path, tensors)

    @classmethod
    def load(cls, path: Path) -> "Ridge":
        """Read a map that `save` wrote; see `Adapter.load`."""
        return cls(**read_tensors(path, {"weights": 2, "source_mean": 1, "target_mean": 1}))


def choose_strength(
    values: Float64[np.ndarray, " d"],
    squares: Float64[np.ndarray, " d"],
    energy: float,
    rows: int,
) -> float:
    """Return the λ among the candidates that generalised cross-validation prefers.

    Args:
        values: s, the eigenvalues of XᵀX for centred X.
        squares: squared norm of each row of VᵀXᵀY, V the eigenvectors.
        energy: ‖Y‖² of centred Y.
        rows: n.
    """
    strengths = CANDIDATES * max(float(values.mean()), 1e-12)
    held = values[None, :] + strengths[:, None]
    residuals = energy - (squares * (values + 2 * strengths[:, None]) / held**2).sum(axis=1)
    # of n rows, this share is not spent on the fit
    free = 1 - (1 + (values / held).sum(axis=1)) / rows
    scores = np.where(free > 0, residuals.clip(min=0) / np.maximum(free, 1e-12) ** 2, np.inf)
    return float(strengths[np.argmin(scores)])
