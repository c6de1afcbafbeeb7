import numpy as np

from mixbct.adapters import cca, ridge, ridge_cca
from mixbct.data.bank import normalise
from mixbct.features.bridged import through


def test_each_half_is_its_own_bridge_at_mean_square_one() -> None:
    rng = np.random.default_rng(0)
    source = normalise(rng.standard_normal((300, 6)) + 1)
    target = normalise(source @ rng.standard_normal((6, 4)) + 0.3 * rng.standard_normal((300, 4)))
    query, gallery = ridge_cca.fit(source, target, shrinkage=0.2)
    assert (query.source_dim, query.target_dim) == (6, 8)
    assert (gallery.source_dim, gallery.target_dim) == (4, 8)
    common = cca.fit(source, target, shrinkage=0.2)
    halves = ((ridge.fit(source, target)[0], None), common)
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
