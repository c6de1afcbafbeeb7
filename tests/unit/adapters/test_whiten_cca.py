import numpy as np
import pytest

from mixbct.adapters import cca, whiten_cca
from mixbct.data.bank import normalise


def root(covariance: np.ndarray, shrinkage: float) -> np.ndarray:
    d = len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * covariance.trace() / d * np.eye(d)
    values, vectors = np.linalg.eigh(shrunk)
    return vectors @ np.diag(values**-0.5) @ vectors.T


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("shrinkage", [0.1, 0.3, 1.0])
def test_the_maps_are_those_of_the_formula(shrinkage: float, labelled: bool) -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(30), 4)
    classes = rng.standard_normal((30, 5))[labels]
    views = [
        classes @ rng.standard_normal((5, d))
        + rng.standard_normal((120, d)) * np.linspace(0.1, 2, d)
        for d in (6, 4)
    ]
    source, target = (normalise(view + 1) for view in views)
    x, y = (
        rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64) for rows in (source, target)
    )
    within = y.copy()
    for one in range(30) if labelled else ():
        within[labels == one] -= within[labels == one].mean(axis=0)
    whitened = y @ root(within.T @ within / len(y), shrinkage)

    left = root(x.T @ x / len(x), shrinkage)
    right = root(whitened.T @ whitened / len(x), shrinkage)
    u, s, vt = np.linalg.svd(left @ (x.T @ whitened / len(x)) @ right)
    expected = (x @ left @ u[:, :4] * s) @ (whitened @ right @ vt.T * s).T
    sides = whiten_cca.fit(source, target, labels if labelled else None, shrinkage=shrinkage)
    found = sides[0].apply(source) @ sides[1].apply(target).T
    np.testing.assert_allclose(found, expected, atol=5e-4)


def test_a_direction_in_which_old_classes_are_wide_counts_less() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(100), 5)
    old = rng.standard_normal((100, 6))[labels] * (1, 1, 1, 1, 3, 3)
    old = normalise(old + rng.standard_normal((500, 6)) * (0.1, 0.1, 0.1, 0.1, 3, 3))
    new = normalise(old @ rng.standard_normal((6, 8)) + 0.05 * rng.standard_normal((500, 8)))
    contrasts = []
    for kind in (cca, whiten_cca):
        strengths = np.linalg.norm(kind.fit(new, old, labels, shrinkage=0.3)[1].arrays[0], axis=1)
        contrasts.append(strengths[:4].min() / strengths[4:].max())
    assert contrasts[1] > 1.5 * contrasts[0]
