"""Maps fitted after training, between one model's queries and another's stored rows.

Each is a pure function of the same items' vectors by both models: fit(source, target, labels) gives
the map of queries and that of rows, either of which may be absent.
"""

from collections.abc import Callable, Mapping

from mixbct.adapters import cca, procrustes, ridge, whiten
from mixbct.adapters.moments import Maps

ADAPTERS: Mapping[str, Callable[..., Maps]] = {
    "procrustes": procrustes.fit,
    "ridge": ridge.fit,
    "ridge_gallery": ridge.fit_gallery,
    "cca": cca.fit,
    "ridge_cca": cca.fit_beside_ridge,
    "whiten_cca": cca.fit_whitened,
    "whiten": whiten.fit,
}

SHRUNK = {"cca": 0.1, "ridge_cca": 0.3, "whiten_cca": 0.3, "whiten": whiten.SHRINKAGE}
"""The shrinkage that an adapter takes where none is given; the others take none."""

OF_STRANGERS = tuple(name for name in ADAPTERS if name != "whiten")
"""Those that tie models that know nothing of each other."""
