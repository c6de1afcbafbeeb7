"""Maps fitted after training, between one model's queries and another's stored rows.

Each is a pure function of the same items' vectors by both models: fit(source, target, labels) gives
the map of queries and that of rows, either of which may be absent.
"""

from collections.abc import Callable, Mapping

from mixbct.adapters import cca, procrustes, ridge, ridge_cca, whiten, whiten_cca
from mixbct.schemas.linear_map import LinearMap

Fit = Callable[..., tuple[LinearMap | None, LinearMap | None]]

ADAPTERS: Mapping[str, Fit] = {
    "procrustes": procrustes.fit,
    "ridge": ridge.fit,
    "ridge_gallery": ridge.fit_gallery,
    "cca": cca.fit,
    "ridge_cca": ridge_cca.fit,
    "whiten_cca": whiten_cca.fit,
    "whiten": whiten.fit,
}

SHRUNK = {
    "cca": cca.SHRINKAGE,
    "ridge_cca": ridge_cca.SHRINKAGE,
    "whiten_cca": whiten.SHRINKAGE,
    "whiten": whiten.SHRINKAGE,
}
"""The shrinkage that an adapter takes where none is given; the others take none."""

OF_STRANGERS = tuple(name for name in ADAPTERS if name != "whiten")
"""Those that tie models that know nothing of each other."""
