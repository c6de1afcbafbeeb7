import numpy as np

from mixbct.adapters.mlp import ResidualMLP
from mixbct.adapters.procrustes import Procrustes
from mixbct.data.bank import normalise


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Return a target that no linear map reaches."""
    rng = np.random.default_rng(0)
    source = normalise(rng.standard_normal((600, 8)))
    return source, normalise(np.abs(source @ rng.standard_normal((8, 8))) - 0.5)


def test_it_begins_at_the_procrustes_map() -> None:
    source, target = pairs()
    begun = ResidualMLP.fit(source, target, steps=0).transform(source)
    np.testing.assert_allclose(begun, Procrustes.fit(source, target).transform(source), atol=1e-5)


def test_it_learns_what_a_rotation_cannot() -> None:
    source, target = pairs()
    maps = [kind.fit(source[:500], target[:500]) for kind in (Procrustes, ResidualMLP)]
    rotated, learned = (
        np.sum(m.transform(source[500:]) * target[500:], axis=1).mean() for m in maps
    )
    assert learned > rotated + 0.1


def test_a_row_equals_the_formula() -> None:
    source, target = pairs()
    fitted = ResidualMLP.fit(source, target, steps=20)
    x = source[3].astype(np.float64)
    hidden = np.maximum(x @ fitted.inner + fitted.inner_bias, 0)
    mapped = x @ fitted.rotation + hidden @ fitted.outer + fitted.outer_bias
    np.testing.assert_allclose(
        fitted.transform(source[3:4])[0], mapped / np.linalg.norm(mapped), atol=1e-6
    )


def test_the_seed_counts() -> None:
    source, target = pairs()
    one, other = (ResidualMLP.fit(source, target, steps=20, seed=seed) for seed in (0, 1))
    assert not np.allclose(one.outer, other.outer)
