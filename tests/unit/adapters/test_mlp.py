import numpy as np
import pytest

from mixbct.adapters import mlp, procrustes
from mixbct.adapters.moments import Pairs
from mixbct.data.bank import normalise
from mixbct.errors import FeatureError
from mixbct.features.bridged import through


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Return a target that no linear map reaches."""
    rng = np.random.default_rng(0)
    source = normalise(rng.standard_normal((600, 8)))
    return source, normalise(np.abs(source @ rng.standard_normal((8, 8))) - 0.5)


def test_it_begins_at_the_procrustes_map() -> None:
    source, target = pairs()
    begun = mlp.fit(Pairs(source, target), steps=0)(source)
    rotated = through(procrustes.fit(Pairs(source, target))[0], source)
    np.testing.assert_allclose(begun, rotated, atol=1e-5)


def test_it_learns_what_a_rotation_cannot() -> None:
    source, target = pairs()
    probe = source[500:]
    rotated = through(procrustes.fit(Pairs(source[:500], target[:500]))[0], probe)
    learned = mlp.fit(Pairs(source[:500], target[:500]))(probe)
    assert learned.dtype == np.float32
    before, after = (np.sum(m * target[500:], axis=1).mean() for m in (rotated, learned))
    assert after > before + 0.1


def test_the_seed_counts_and_nothing_else() -> None:
    source, target = pairs()
    found = [mlp.fit(Pairs(source, target), steps=20, seed=seed)(source[:9]) for seed in (0, 1, 0)]
    np.testing.assert_array_equal(found[0], found[2])
    assert not np.allclose(found[0], found[1])


def test_other_dimensions_and_too_few_rows() -> None:
    source, target = pairs()
    assert mlp.fit(Pairs(source, target[:, :5].copy()), steps=2)(source[:3]).shape == (3, 5)
    with pytest.raises(FeatureError, match="600 source and 599 target rows"):
        mlp.fit(Pairs(source, target[1:]))
    with pytest.raises(FeatureError, match="7 rows do not determine"):
        mlp.fit(Pairs(source[:7], target[:7]))
