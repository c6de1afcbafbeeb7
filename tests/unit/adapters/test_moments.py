import numpy as np
import pytest

from mixbct.adapters import moments as module
from mixbct.adapters.moments import Pairs, inverse_root, moments, within_classes
from mixbct.data.bank import normalise


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)


def vectors(n: int, d: int, seed: int) -> np.ndarray:
    """Return raw vectors in a narrow cone, far from the origin."""
    return 3 * np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32) + 9


def test_moments_are_numpys() -> None:
    x, y = vectors(45, 5, 0), vectors(45, 3, 1)
    found = moments(Pairs(x, y))
    both = np.hstack([normalise(x), normalise(y)]).astype(np.float64)
    mean, covariance = both.mean(axis=0), np.cov(both.T, bias=True)
    np.testing.assert_allclose(np.r_[found.source_mean, found.target_mean], mean, atol=1e-12)
    np.testing.assert_allclose(found.source, covariance[:5, :5], atol=1e-12)
    np.testing.assert_allclose(found.target, covariance[5:, 5:], atol=1e-12)
    np.testing.assert_allclose(found.cross, covariance[:5, 5:], atol=1e-12)
    assert found.rows == 45


@pytest.mark.parametrize("kinds", [45, 9, 1])
def test_the_scatter_within_classes_is_that_of_a_loop(kinds: int) -> None:
    raw = vectors(45, 4, 2)
    labels = np.random.default_rng(3).integers(0, kinds, 45) * 5 - 3  # any numbers
    unit = normalise(raw).astype(np.float64)
    expected = np.zeros((4, 4))
    for row, label in zip(unit, labels, strict=True):
        offset = row - unit[labels == label].mean(axis=0)
        expected += np.outer(offset, offset) / 45
    mean, scatter = within_classes(raw, labels)
    np.testing.assert_allclose(scatter, expected, atol=1e-12)
    np.testing.assert_allclose(mean, unit.mean(axis=0), atol=1e-12)


def test_without_labels_the_scatter_is_all_of_it() -> None:
    raw = vectors(45, 4, 2)
    expected = np.cov(normalise(raw).astype(np.float64).T, bias=True)
    np.testing.assert_allclose(within_classes(raw, None)[1], expected, atol=1e-12)


def test_the_inverse_root_is_one() -> None:
    covariance = np.cov(np.random.default_rng(0).standard_normal((5, 40)))
    shrunk = 0.8 * covariance + 0.2 * np.trace(covariance) / 5 * np.eye(5)
    root = inverse_root(covariance, 0.2)
    np.testing.assert_allclose(root @ shrunk @ root, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(root, root.T)
