import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge

from mixbct.adapters import ridge
from mixbct.adapters.moments import Pairs
from mixbct.adapters.ridge import CANDIDATES
from mixbct.data.bank import normalise
from mixbct.features.bridged import through


def pairs(n: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    source = normalise(rng.standard_normal((n, 10)) + 0.5)
    target = source @ rng.standard_normal((10, 6)) + noise * rng.standard_normal((n, 6))
    return source, normalise(target)


def gcv_by_hat_matrix(source: np.ndarray, target: np.ndarray) -> float:
    """Choose λ with the hat matrix H written out, in float64."""
    x = source - source.mean(axis=0, dtype=np.float64)
    y = target - target.mean(axis=0, dtype=np.float64)
    n = len(x)
    best = (np.inf, 0.0)
    for strength in CANDIDATES * np.trace(x.T @ x) / x.shape[1]:
        hat = x @ np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T)
        free = 1 - (1 + np.trace(hat)) / n
        if free > 0:
            best = min(best, (np.square(y - hat @ y).sum() / free**2, strength))
    return best[1]


@pytest.mark.parametrize(("n", "noise"), [(40, 0.05), (40, 3.0), (9, 0.5)])
def test_the_map_is_scikit_learns_at_the_lambda_of_the_hat_matrix(n: int, noise: float) -> None:
    source, target = pairs(n, noise)
    strength = gcv_by_hat_matrix(source, target)
    oracle = SklearnRidge(alpha=strength).fit(source.astype(np.float64), target.astype(np.float64))
    fitted, rows = ridge.fit(Pairs(source, target))
    assert rows is None
    np.testing.assert_allclose(fitted.arrays[0], oracle.coef_.T, atol=1e-4)
    probe = normalise(np.random.default_rng(1).standard_normal((5, 10)))
    np.testing.assert_allclose(
        through(fitted, probe), normalise(oracle.predict(probe.astype(np.float64))), atol=1e-4
    )


def test_more_noise_asks_for_a_stronger_hold() -> None:
    strengths = [gcv_by_hat_matrix(*pairs(40, noise)) for noise in (0.05, 3.0)]
    assert strengths[1] > 10 * strengths[0]


def test_the_other_way_it_maps_the_gallery() -> None:
    source, target = pairs(40, 0.5)
    query, gallery = ridge.fit_gallery(Pairs(source, target))
    assert query is None
    assert gallery == ridge.fit(Pairs(target, source))[0]
    assert (gallery.source_dim, gallery.target_dim) == (6, 10)
