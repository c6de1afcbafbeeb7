import numpy as np
import pytest
from sklearn.cross_decomposition import CCA

from mixbct.adapters import cca
from mixbct.data.bank import normalise


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
    sides = cca.fit(source, target, shrinkage=1e-9)
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
    sides = cca.fit(source, target, shrinkage=shrinkage)
    found = sides[0].apply(source) @ sides[1].apply(target).T
    np.testing.assert_allclose(found, expected, atol=2e-4)
