"""Maps fitted after training, between one model's queries and another's stored rows.

Each is a pure function of the same items' vectors by both models: fit(source, target, labels) gives
the map of queries and that of rows, either of which may be absent.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from mixbct.adapters import cca, procrustes, ridge, whiten
from mixbct.adapters.moments import Labels, Maps, Pairs
from mixbct.features.bridged import Vectors


def _of_arrays(of: Callable[..., Maps]) -> Callable[..., Maps]:
    """Let a fit over `Pairs` take the new model's vectors [n, d1], the old one's [n, d2] of the
    same items in the same order, and their labels where there are some."""

    @wraps(of)
    def fit(source: Vectors, target: Vectors, labels: Labels | None = None, **how: Any) -> Maps:
        return of(Pairs(source, target, labels), **how)

    return fit


_FITS: Mapping[str, Callable[..., Maps]] = {
    "procrustes": procrustes.fit,
    "ridge": ridge.fit,
    "ridge_gallery": ridge.fit_gallery,
    "cca": cca.fit,
    "ridge_cca": cca.fit_beside_ridge,
    "whiten_cca": cca.fit_whitened,
    "whiten": whiten.fit,
}
ADAPTERS: Mapping[str, Callable[..., Maps]] = {k: _of_arrays(fit) for k, fit in _FITS.items()}

SHRUNK = {"cca": 0.1, "ridge_cca": 0.3, "whiten_cca": 0.3, "whiten": whiten.SHRINKAGE}
"""The shrinkage that an adapter takes where none is given; the others take none."""

OF_STRANGERS = tuple(name for name in ADAPTERS if name != "whiten")
"""Those that tie models that know nothing of each other."""
