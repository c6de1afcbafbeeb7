import numpy as np
import pytest
from sklearn.cross_decomposition import CCA

from mixbct.adapters import cca, ridge
from mixbct.adapters.moments import Pairs
from mixbct.data.bank import normalise
from mixbct.features.bridged import through


def pairs(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return two views of three things, with noise, in 6 and 4 dimensions."""
    rng = np.random.default_rng(0)
    things = rng.standard_normal((n, 3)) * (3, 2, 1)
    views = (
        things @ rng.standard_normal((3, d)) + 0.5 * rng.standard_normal((n, d)) + 2 for d in (6, 4)
    )
    return tuple(normalise(view) for view in views)


def test_correlations_are_scikit_learns() -> None:
    source, target = pairs()
    sides = cca.fit(Pairs(source, target), shrinkage=1e-9)
    x, y = (side.apply(rows) for side, rows in zip(sides, (source, target), strict=True))
    found = [np.corrcoef(x[:, k], y[:, k])[0, 1] for k in range(4)]
    theirs = CCA(4, scale=False, max_iter=5000, tol=1e-9).fit_transform(source, target)
    expected = [np.corrcoef(theirs[0][:, k], theirs[1][:, k])[0, 1] for k in range(4)]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    # each coordinate weighs its correlation
    np.testing.assert_allclose(x.std(axis=0), found, rtol=1e-3)
    np.testing.assert_allclose(y.std(axis=0), found, rtol=1e-3)


@pytest.mark.parametrize("shrinkage", [0.1, 0.3, 1.0])
def test_the_maps_are_those_of_the_formula(shrinkage: float) -> None:
    source, target = pairs(90)
    x, y = (rows - rows.mean(axis=0, dtype=np.float64) for rows in (source, target))

    def root(rows: np.ndarray) -> np.ndarray:
        c = rows.T @ rows / len(rows)
        d = len(c)
        values, vectors = np.linalg.eigh(
            (1 - shrinkage) * c + shrinkage * c.trace() / d * np.eye(d)
        )
        return vectors @ np.diag(values**-0.5) @ vectors.T

    u, s, vt = np.linalg.svd(root(x) @ (x.T @ y / len(x)) @ root(y))
    expected = (x @ root(x) @ u[:, :4] * s) @ (y @ root(y) @ vt.T * s).T
    sides = cca.fit(Pairs(source, target), shrinkage=shrinkage)
    found = sides[0].apply(source) @ sides[1].apply(target).T
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_each_half_is_its_own_bridge_at_mean_square_one() -> None:
    rng = np.random.default_rng(0)
    source = normalise(rng.standard_normal((300, 6)) + 1)
    target = normalise(source @ rng.standard_normal((6, 4)) + 0.3 * rng.standard_normal((300, 4)))
    query, gallery = cca.fit_beside_ridge(Pairs(source, target), shrinkage=0.2)
    assert (query.source_dim, query.target_dim) == (6, 8)
    assert (gallery.source_dim, gallery.target_dim) == (4, 8)
    common = cca.fit(Pairs(source, target), shrinkage=0.2)
    halves = ((ridge.fit(Pairs(source, target))[0], None), common)
    for rows, side, number in ((source, query, 0), (target, gallery, 1)):
        mapped = side.apply(rows)
        for half, sides in ((mapped[:, :4], halves[0]), (mapped[:, 4:], halves[1])):
            np.testing.assert_allclose(np.square(half).sum(axis=1).mean(), 1, atol=1e-4)
            expected = through(sides[number], rows)
            np.testing.assert_allclose(normalise(half), expected, atol=1e-4)
    # the whole is near the mean of the two cosines
    whole = (through(query, source) * through(gallery, target)).sum(axis=1)
    parts = [(through(a, source) * through(b, target)).sum(axis=1) for a, b in halves]
    assert np.abs(whole - np.mean(parts, axis=0)).mean() < 0.1
    assert np.corrcoef(whole, np.mean(parts, axis=0))[0, 1] > 0.9


def inverse_root(covariance: np.ndarray, shrinkage: float) -> np.ndarray:
    d = len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * covariance.trace() / d * np.eye(d)
    values, vectors = np.linalg.eigh(shrunk)
    return vectors @ np.diag(values**-0.5) @ vectors.T


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("shrinkage", [0.1, 0.3, 1.0])
def test_whitened_maps_are_those_of_the_formula(shrinkage: float, labelled: bool) -> None:
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
    whitened = y @ inverse_root(within.T @ within / len(y), shrinkage)

    left = inverse_root(x.T @ x / len(x), shrinkage)
    right = inverse_root(whitened.T @ whitened / len(x), shrinkage)
    u, s, vt = np.linalg.svd(left @ (x.T @ whitened / len(x)) @ right)
    expected = (x @ left @ u[:, :4] * s) @ (whitened @ right @ vt.T * s).T
    sides = cca.fit_whitened(
        Pairs(source, target, labels if labelled else None), shrinkage=shrinkage
    )
    found = sides[0].apply(source) @ sides[1].apply(target).T
    np.testing.assert_allclose(found, expected, atol=5e-4)


def test_a_direction_in_which_old_classes_are_wide_counts_less() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(100), 5)
    old = rng.standard_normal((100, 6))[labels] * (1, 1, 1, 1, 3, 3)
    old = normalise(old + rng.standard_normal((500, 6)) * (0.1, 0.1, 0.1, 0.1, 3, 3))
    new = normalise(old @ rng.standard_normal((6, 8)) + 0.05 * rng.standard_normal((500, 8)))
    contrasts = []
    for fit in (cca.fit, cca.fit_whitened):
        gallery = fit(Pairs(new, old, labels), shrinkage=0.3)[1]
        strengths = np.linalg.norm(gallery.arrays[0], axis=1)
        contrasts.append(strengths[:4].min() / strengths[4:].max())
    assert contrasts[1] > 1.5 * contrasts[0]
