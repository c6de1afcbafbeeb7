"""Mixed galleries and whole upgrades between dimensions, against scores computed one by one."""

import numpy as np
import pytest

from mixbct.data.bank import normalise
from mixbct.errors import FeatureError
from mixbct.evaluation.calibration import calibration_of
from mixbct.evaluation.comparison import compare
from mixbct.evaluation.scores import Embeddings
from mixbct.evaluation.upgrade import Pair, evaluate_upgrade, mixed_sides, one_half
from mixbct.schemas.calibration import Calibration


def embed(dim: int, noise: float, seed: int) -> Pair:
    """Return items of ten classes as a model of `dim` dimensions sees them."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(10, 24))[:, :dim]

    def side(n: int) -> Embeddings:
        labels = np.arange(n, dtype=np.int64) % 10
        return Embeddings(normalise(centres[labels] + noise * rng.normal(size=(n, dim))), labels)

    return Pair(side(60), side(90))


def calibration(begin: float, end: float) -> Calibration:
    scores, counts = (-0.9, begin, end, 0.95), (10**6, 10**5, 300, 1)
    return Calibration(pairs=10**6, classes=5, scores=scores, accepted=counts)


OWN, BETWEEN = calibration(0.2, 0.6), calibration(-0.1, 0.9)


@pytest.fixture(params=[(6, 16), (16, 6)])
def sides(request: pytest.FixtureRequest) -> tuple[Pair, Pair, Pair]:
    """Return models of two dimensions, and new queries with old rows as they meet."""
    old_dim, new_dim = request.param
    old, new = embed(old_dim, 1.0, 2), embed(new_dim, 0.6, 3)
    matrix = np.eye(new_dim, old_dim) + 0.01
    across = Embeddings(normalise(new.query.features @ matrix.astype(np.float32)), new.query.labels)
    return old, new, Pair(across, old.gallery)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_score_is_taken_in_the_rows_own_space(
    sides: tuple[Pair, Pair, Pair], share: float
) -> None:
    _, new, across = sides
    queries, gallery = mixed_sides(new, across, share, 4, OWN, BETWEEN)
    scores = queries.features @ gallery.features.T
    # a row of the old model has nothing in the new one's coordinates
    enrolled = (gallery.features[:, : new.query.dim] != 0).any(axis=1)
    assert enrolled.sum() == round(share * 90)
    expected = np.empty_like(scores)
    for q in range(60):
        for g in range(90):
            if enrolled[g]:
                score, begin, end = new.query.features[q] @ new.gallery.features[g], 0.2, 0.6
            else:
                score = across.query.features[q] @ across.gallery.features[g]
                begin, end = -0.1, 0.9
            expected[q, g] = (score - begin) / (end - begin)
    times = np.linalg.norm(scores) / np.linalg.norm(expected)
    assert 0.05 < times < 1
    np.testing.assert_allclose(scores, times * expected, atol=1e-5)


def test_an_upgrade_between_dimensions(sides: tuple[Pair, Pair, Pair]) -> None:
    old, new, across = sides
    found = evaluate_upgrade(old, new, cross=across, seed=5, replicates=50)
    sure = compare(across.query, across.gallery)
    cross = found.combinations["new/old"]
    assert cross.mean_average_precision.value == sure.mean_average_precision()
    itself = found.combinations["new/new"].mean_average_precision.value
    assert itself == compare(new.query, new.gallery).mean_average_precision()
    lines = [found.calibrations[name].set_on for name in ("new/new", "new/old")]
    half = compare(*mixed_sides(new, across, 0.5, 5, *lines))
    assert found.combinations["new/50 % new"].rank1.value == half.rank_rate(1)
    everything = compare(*mixed_sides(new, across, 1.0, 5, *lines))
    assert everything.mean_average_precision() == pytest.approx(itself, abs=1e-3)


def mapped_gallery(old: Pair, new: Pair) -> Pair:
    """Return what meets where rows, and not queries, are mapped into the space of the queries."""
    matrix = np.random.default_rng(9).normal(size=(old.gallery.dim, new.query.dim))
    rows = normalise(old.gallery.features @ matrix.astype(np.float32))
    return Pair(new.query, Embeddings(rows, old.gallery.labels))


def test_mapped_rows_stay_in_one_space_with_the_new_ones(sides: tuple[Pair, Pair, Pair]) -> None:
    old, new, _ = sides
    across = mapped_gallery(old, new)
    queries, gallery = mixed_sides(new, across, 0.5, 4, OWN, OWN)
    assert queries.dim == new.query.dim + 2
    rows = normalise(gallery.features[:, : new.query.dim])
    again = np.isclose(rows, new.gallery.features, atol=1e-6).all(axis=1)
    assert again.sum() == 45
    np.testing.assert_allclose(rows[~again], across.gallery.features[~again], atol=1e-6)
    found = evaluate_upgrade(old, new, cross=across, mapped={"x": across}, seed=5, replicates=50)
    sure = compare(new.query, across.gallery)
    cross = found.combinations["new/old"]
    assert cross.mean_average_precision.value == sure.mean_average_precision()
    assert found.combinations["x/old"].metrics() == cross.metrics()
    base = compare(old.query, old.gallery).mean_average_precision()
    assert found.combinations["old/old"].mean_average_precision.value == base
    # the threshold that an edge will hold is one of mapped rows
    crossed = found.calibrations["new/old"].set_on
    value = found.carried_threshold.threshold
    assert crossed.rate_above(value) <= 1e-3
    half = one_half(len(sure.classes), 5)
    assert crossed == calibration_of(sure, half)


def test_without_a_map_differing_dimensions_are_refused(
    sides: tuple[Pair, Pair, Pair],
) -> None:
    old, new, _ = sides
    with pytest.raises(FeatureError, match=r"cannot be compared directly.*method\.query_map"):
        evaluate_upgrade(old, new, seed=5, replicates=50)
