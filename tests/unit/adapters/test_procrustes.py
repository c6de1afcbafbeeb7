import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

from mixbct.adapters import procrustes
from mixbct.adapters.moments import Pairs
from mixbct.data.bank import normalise
from mixbct.errors import FeatureError
from mixbct.features.bridged import through


def rows(n, dim, seed=0):
    return normalise(np.random.default_rng(seed).standard_normal((n, dim)))


def rotation_of(source, target):
    return procrustes.fit(Pairs(source, target))[0].arrays[0]


def orthonormal(d1, d2, seed=9):
    """Return a [d1, d2] matrix with orthonormal columns, or rows where it is wide."""
    wide = d1 < d2
    shape = (d2, d1) if wide else (d1, d2)
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal(shape))[0].astype(np.float32)
    return q.T if wide else q


def test_the_rotation_is_scipys():
    source, target = rows(50, 8), rows(50, 8, seed=1)
    expected, _ = orthogonal_procrustes(source.astype(np.float64), target.astype(np.float64))
    np.testing.assert_allclose(rotation_of(source, target), expected, atol=1e-6)


def test_the_centred_rotation_is_scipys_of_the_centred_rows():
    source, target = normalise(rows(50, 8) + 0.3), normalise(rows(50, 8, seed=1) - 0.2)
    rotation, offset = procrustes.fit(Pairs(source, target), centre=True)[0].arrays
    expected, _ = orthogonal_procrustes(
        source - source.mean(axis=0, dtype=np.float64),
        target - target.mean(axis=0, dtype=np.float64),
    )
    np.testing.assert_allclose(rotation, expected, atol=1e-5)
    shift = target.mean(axis=0) - source.mean(axis=0) @ expected
    np.testing.assert_allclose(offset, shift, atol=1e-5)


@pytest.mark.parametrize(("d1", "d2"), [(8, 8), (6, 10)])
def test_a_rotation_is_recovered(d1, d2):
    source = rows(40, d1)
    target = source @ orthonormal(d1, d2)
    mapped = through(procrustes.fit(Pairs(source, target))[0], rows(5, d1, seed=3))
    np.testing.assert_allclose(mapped, rows(5, d1, seed=3) @ orthonormal(d1, d2), atol=1e-5)


@pytest.mark.parametrize(("d1", "d2"), [(6, 10), (10, 6)])
def test_maps_between_dimensions_are_orthonormal(d1, d2):
    rotation = rotation_of(rows(40, d1), rows(40, d2, seed=1))
    gram = rotation @ rotation.T if d1 < d2 else rotation.T @ rotation
    np.testing.assert_allclose(gram, np.eye(min(d1, d2)), atol=1e-5)


def test_no_other_orthonormal_map_aligns_better():
    source, target = rows(40, 10), rows(40, 6, seed=1)
    best = np.sum((source @ rotation_of(source, target)) * target)
    for seed in range(20):
        assert np.sum((source @ orthonormal(10, 6, seed)) * target) < best


def test_centring_finds_a_shifted_copy():
    centred = 0.1 * np.random.default_rng(0).standard_normal((60, 8))
    shift = np.full(8, 1 / np.sqrt(8))
    source = normalise(centred + shift)
    target = normalise((source - source.mean(axis=0)) @ orthonormal(8, 8) - shift)
    plain, around_means = (
        np.mean(
            np.sum(through(procrustes.fit(Pairs(source, target), centre=c)[0], source) * target, 1)
        )
        for c in (False, True)
    )
    assert around_means > plain
    assert around_means > 0.999


@pytest.mark.parametrize(("n", "centre"), [(5, False), (6, True)])
def test_too_few_rows_are_refused(n, centre):
    with pytest.raises(FeatureError, match=f"{n} rows .* at least {n + 1}"):
        procrustes.fit(Pairs(rows(n, 10), rows(n, 6)), centre=centre)
    procrustes.fit(Pairs(rows(n + 1, 10), rows(n + 1, 6)), centre=centre)
