"""Ridge regression: the linear map with least squared error, held small.

Minimise ‖X M − Y‖² + λ‖M‖² over M, around the means of both sides. λ is chosen by generalised
cross-validation among values relative to the mean eigenvalue of XᵀX: it minimises
(1/n)‖Y − Ŷ‖² / (1 − (1 + Σ_k s_k/(s_k + λ))/n)², s the eigenvalues, the 1 for the mean (Golub,
Heath and Wahba, "Generalized Cross-Validation as a Method for Choosing a Good Ridge Parameter",
Technometrics 21, 1979). Fitted the other way, from the old vectors to the new ones, it maps the
gallery instead of the queries.
"""

import numpy as np
from jaxtyping import Float64

from mixbct.adapters.moments import Maps, Moments, Pairs, moments
from mixbct.schemas.linear_map import LinearMap

CANDIDATES = np.logspace(-6, 2, 33)
"""Values of λ to choose from, as multiples of the mean eigenvalue of XᵀX."""


def fit(pairs: Pairs) -> Maps:
    """Return the map of queries to the old vectors; rows stay as they are. Labels play no part.

    Raises:
        FeatureError: the counts differ, or there are fewer than three rows.
    """
    return of_moments(moments(pairs, needed=3)), None


def fit_gallery(pairs: Pairs) -> Maps:
    """Return the map of stored rows to the new vectors; queries stay as they are; see `fit`."""
    pairs.check(needed=3)
    return None, of_moments(moments(Pairs(pairs.target, pairs.source)))


def of_moments(found: Moments) -> LinearMap:
    """Return the ridge map of the source's vectors to the target's."""
    values, vectors = np.linalg.eigh(found.rows * found.source)
    values = values.clip(min=0)
    rotated = found.rows * vectors.T @ found.cross
    energy = found.rows * float(np.trace(found.target))
    strength = choose_strength(values, np.square(rotated).sum(axis=1), energy, found.rows)
    weights = vectors @ (rotated / (values + strength)[:, None])
    return LinearMap.of(weights, found.target_mean - found.source_mean @ weights)


def choose_strength(
    values: Float64[np.ndarray, " d"], squares: Float64[np.ndarray, " d"], energy: float, rows: int
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
