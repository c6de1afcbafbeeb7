"""Mixed galleries and whole upgrades between dimensions, against scores computed one by one."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mixbct.data.bank import normalise
from mixbct.errors import FeatureError
from mixbct.evaluation.calibration import calibrate
from mixbct.evaluation.comparison import compare, compare_all
from mixbct.evaluation.mixed import mixed_rows, mixed_sides
from mixbct.evaluation.scores import Embeddings, Pair
from mixbct.evaluation.upgrade import evaluate_upgrade, one_half


def embed(dim: int, noise: float, seed: int) -> Pair:
    """Return items of ten classes as a model of `dim` dimensions sees them."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(10, 24))[:, :dim]

    def side(n: int) -> Embeddings:
        labels = np.arange(n, dtype=np.int64) % 10
        return Embeddings(normalise(centres[labels] + noise * rng.normal(size=(n, dim))), labels)

    return Pair(side(60), side(90))


OWN, BETWEEN = (0.2, 0.4), (-0.1, 1.0)


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
    again = np.zeros(90, np.bool_)
    again[mixed_rows(90, share, 4)] = True
    assert again.sum() == round(share * 90)
    own = (new.query.features @ new.gallery.features.T - 0.2) / 0.4
    scores = np.where(again, own, across.query.features @ across.gallery.features.T + 0.1)
    parts = mixed_sides(new, across, (share,), mixed_rows(90, 1.0, 4), OWN, BETWEEN)
    found = compare_all(parts)[f"new/{100 * share:g} % new"]
    for q, label in enumerate(new.query.labels):
        same = new.gallery.labels == label
        assert found.rank[q] == 1 + (scores[q][~same] >= scores[q][same].max()).sum()
        expected = average_precision_score(same, scores[q])
        assert found.average_precision[q] == pytest.approx(expected, abs=1e-6)


def test_an_upgrade_between_dimensions(sides: tuple[Pair, Pair, Pair]) -> None:
    old, new, across = sides
    found = evaluate_upgrade(old, new, cross=across, seed=5, replicates=50)
    sure = compare(across.query, across.gallery)
    cross = found.combinations["new/old"]
    assert cross.mean_average_precision.value == sure.mean_average_precision()
    itself = found.combinations["new/new"].mean_average_precision.value
    assert itself == compare(new.query, new.gallery).mean_average_precision()
    lines = [found.calibrations[name].set_on.line() for name in ("new/new", "new/old")]
    parts = mixed_sides(new, across, (0.5, 1.0), mixed_rows(len(across.gallery), 1.0, 5), *lines)
    judged = compare_all(parts)
    assert found.combinations["new/50 % new"].rank1.value == judged["new/50 % new"].rank_rate(1)
    everything = judged["new/100 % new"].mean_average_precision()
    assert everything == pytest.approx(itself, abs=1e-3)


def mapped_gallery(old: Pair, new: Pair) -> Pair:
    """Return what meets where rows, and not queries, are mapped into the space of the queries."""
    matrix = np.random.default_rng(9).normal(size=(old.gallery.dim, new.query.dim))
    rows = normalise(old.gallery.features @ matrix.astype(np.float32))
    return Pair(new.query, Embeddings(rows, old.gallery.labels))


def test_mapped_rows_stay_in_one_space_with_the_new_ones(sides: tuple[Pair, Pair, Pair]) -> None:
    old, new, _ = sides
    across = mapped_gallery(old, new)
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
    drawn = compare(new.query, across.gallery, weights=half[None].astype(np.uint8))
    assert crossed == calibrate(sure, drawn.drawn_above[1, 0].astype(np.int64), int(half.sum()))


def test_without_a_map_differing_dimensions_are_refused(
    sides: tuple[Pair, Pair, Pair],
) -> None:
    old, new, _ = sides
    with pytest.raises(FeatureError, match=r"cannot be compared directly.*method\.query_map"):
        evaluate_upgrade(old, new, seed=5, replicates=50)
