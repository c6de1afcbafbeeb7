"""What is expected of every adapter in ADAPTERS, and of all of them where the vectors are poor."""

import numpy as np
import pytest

from mixbct.adapters import ADAPTERS, SHRUNK, moments
from mixbct.data.bank import normalise
from mixbct.errors import FeatureError
from mixbct.features.bridged import ReadRows, through
from mixbct.schemas.linear_map import LinearMap

DIMENSIONS = [(8, 8), (12, 8), (8, 12)]


def rows(n: int, dim: int, seed: int = 0) -> np.ndarray:
    return normalise(np.random.default_rng(seed).standard_normal((n, dim)))


def pairs(d1: int, d2: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Return a smooth, not quite linear function of the source, and some noise."""
    rng = np.random.default_rng(7)
    source = rows(n, d1)
    mixed = source @ np.linalg.qr(rng.standard_normal((12, 12)))[0][:d1, :d2]
    noise = 0.02 * rng.standard_normal(mixed.shape)
    return source, normalise(np.tanh(2 * mixed) + 0.1 + noise)


def models(name: str, d1: int, d2: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Return what an adapter is for: two models, or for `whiten` two in one space."""
    source, target = pairs(d1, d2, n)
    return (
        (normalise(target + 0.05 * rows(n, d2, 3)), target)
        if name == "whiten"
        else (source, target)
    )


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize(("d1", "d2"), DIMENSIONS)
def test_unseen_queries_land_near_their_rows(name: str, d1: int, d2: int) -> None:
    source, target = models(name, d1, d2)
    query, gallery = ADAPTERS[name](source[:250], target[:250], np.arange(250) % 25)
    left, right = through(query, source[250:]), through(gallery, target[250:])
    assert left.shape == right.shape
    for side in (left, right):
        assert side.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(side, axis=1), 1, atol=1e-5)
    cosines = (left * right).sum(axis=1)
    others = (left * np.roll(right, 1, axis=0)).sum(axis=1)
    assert cosines.mean() > others.mean() + 0.5


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_fit_is_deterministic_and_free_of_how_rows_are_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = models(name, 8, 8)
    labels = np.arange(300) % 7
    first = ADAPTERS[name](source, target, labels)
    assert ADAPTERS[name](source, target, labels) == first
    monkeypatch.setattr(moments, "CHUNK", 41)
    # of any scale, in another order, behind a choice of rows: the same items
    order = np.random.default_rng(0).permutation(300)
    back = np.argsort(order)
    scale = np.random.default_rng(1).uniform(0.5, 9, (300, 1))
    again = ADAPTERS[name](
        ReadRows((source * scale)[order].__getitem__, back, 8),
        ReadRows(target[order].__getitem__, back, 8),
        labels,
    )
    for one, other in zip(first, again, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            for a, b in zip(one.arrays, other.arrays, strict=True):
                np.testing.assert_allclose(a, b, atol=2e-5) if a is not None else None


@pytest.mark.parametrize("name", ADAPTERS)
def test_rows_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(FeatureError, match="40 source and 39 target rows"):
        ADAPTERS[name](rows(40, 8), rows(39, 8), None)
    with pytest.raises(FeatureError, match="1 rows do not determine a map from 8 to 8"):
        ADAPTERS[name](rows(1, 8), rows(1, 8), None)
    for bad in (np.nan, np.inf, 0.0):
        spoiled = rows(40, 8)
        spoiled[7] = bad
        with pytest.raises(FeatureError, match="row 7"):
            ADAPTERS[name](spoiled if name != "whiten" else rows(40, 8), spoiled, None)


@pytest.mark.parametrize("name", SHRUNK)
def test_poor_vectors_are_held_by_shrinkage(name: str) -> None:
    source, target = models(name, 8, 8, 60)
    source, target = source.copy(), target.copy()
    source[:, 3] = target[:, 5] = 0  # a dimension that says nothing
    for count in (60, 5):  # and fewer rows than dimensions
        for labels in (None, np.zeros(count, np.int64), np.arange(count)):
            sides = ADAPTERS[name](normalise(source[:count]), normalise(target[:count]), labels)
            for side, features in zip(sides, (source, target), strict=True):
                assert np.isfinite(through(side, normalise(features))).all()
    same = np.tile(rows(1, 8), (30, 1))
    with pytest.raises(FeatureError, match="all alike"):
        ADAPTERS[name](same, same, np.arange(30) % 3)
    for shrinkage in (0.0, 1.1, -1.0):
        with pytest.raises(FeatureError, match=r"shrinkage is .* at most 1"):
            ADAPTERS[name](source, target, None, shrinkage=shrinkage)


def test_a_map_takes_its_dimension_alone() -> None:
    query, _ = ADAPTERS["cca"](*pairs(12, 8), None)
    with pytest.raises(FeatureError, match="dimension 12, not 8"):
        through(query, rows(3, 8))


def test_a_map_that_sends_a_row_to_zero_is_named() -> None:
    side = LinearMap.of(np.diag([1.0, 0.0, 1.0]))
    with pytest.raises(FeatureError, match=r"zero vectors: 1 of 3 features \(b\)"):
        through(side, np.eye(3, dtype=np.float32), ["a", "b", "c"])
