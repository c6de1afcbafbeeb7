import numpy as np
import pytest

from mixbct.data.bank import normalise
from mixbct.errors import DataError, FeatureError
from mixbct.evaluation.combination import cmc_curve, histogram, roc_curve
from mixbct.evaluation.comparison import compare
from mixbct.evaluation.mixed import mixed_rows, mixed_sides
from mixbct.evaluation.scores import Embeddings, Pair
from mixbct.evaluation.upgrade import evaluate_upgrade, flips_of

CLASSES, DIM = 12, 16


def model(noise, rotation=None, seed=0):
    """Return the same items as every other model sees them: class centres and some noise."""
    centres = np.random.default_rng(99).standard_normal((CLASSES, DIM))
    rng = np.random.default_rng(seed)

    def side(n):
        labels = np.arange(n, dtype=np.int64) % CLASSES
        features = centres[labels] + noise * rng.standard_normal((n, DIM))
        if rotation is not None:
            features = features @ rotation
        return Embeddings(normalise(features), labels)

    return Pair(side(72), side(144))


@pytest.fixture(scope="module")
def models():
    rotation = np.linalg.qr(np.random.default_rng(7).standard_normal((DIM, DIM)))[0]
    independent = model(0.6, rotation, seed=3)
    mapped = Embeddings(
        normalise(independent.query.features @ rotation.T.astype(np.float32)),
        independent.query.labels,
    )
    old = model(1.3, seed=1)
    return old, model(0.7, seed=2), independent, {"procrustes": Pair(mapped, old.gallery)}


@pytest.fixture(scope="module")
def figures(models):
    return evaluate_upgrade(*models, seed=5, replicates=200)


def test_every_combination_and_difference_is_there(figures):
    mixed = {f"new/{share} % new" for share in (10, 50, 90)}
    assert set(figures.combinations) == mixed | {
        "old/old",
        "new/old",
        "new/new",
        "independent/independent",
        "independent/old",
        "procrustes/old",
    }
    for name, combination in figures.combinations.items():
        assert f"{combination.query}/{combination.gallery}" == name
    assert {(d.of, d.minus) for d in figures.differences} == {
        ("new/new", "independent/independent"),
        ("new/new", "new/old"),
        *((name, "old/old") for name in figures.combinations if name != "old/old"),
    }


def test_without_an_independent_model_there_is_no_gain(models):
    old, new, *_ = models
    done = []
    found = evaluate_upgrade(
        old, new, seed=5, replicates=20, mixed=(0.5,), progress=lambda *at: done.append(at)
    )
    assert found.update_gain is None
    assert set(found.combinations) == {"old/old", "new/old", "new/new", "new/50 % new"}
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_figures_are_those_of_the_comparison(models, figures):
    old, new, *_ = models
    comparison = compare(new.query, old.gallery)
    combination = figures.combinations["new/old"]
    assert combination.mean_average_precision.value == comparison.mean_average_precision()
    assert combination.rank1.value == comparison.rank_rate(1)
    for point, threshold in zip(combination.operating_points, comparison.thresholds, strict=True):
        assert point.tar.value == comparison.true_accept_rate(threshold)
        assert point.threshold == threshold.value
        assert point.measured_far <= point.far
    for figure in combination.metrics().values():
        assert figure.low <= figure.value <= figure.high
    assert combination.mean_average_precision.low < combination.mean_average_precision.high


def test_differences_are_paired(figures):
    difference = figures.differences[0]
    assert (difference.of, difference.minus) == ("new/old", "old/old")
    cross, base = (figures.combinations[name] for name in ("new/old", "old/old"))
    for name, change in difference.metrics.items():
        assert change.value == cross.metric(name).value - base.metric(name).value
    # the noise of the gallery is common to both, so the paired interval is narrower than the sum
    width = sum(m.high - m.low for m in (cross.metric("mAP"), base.metric("mAP")))
    assert difference.metrics["mAP"].high - difference.metrics["mAP"].low < width


def test_update_gain_is_the_share_of_the_possible_gain(figures):
    cross, base, best = (
        figures.combinations[name].mean_average_precision.value
        for name in ("new/old", "old/old", "independent/independent")
    )
    gain = figures.update_gain
    assert gain.value == pytest.approx((cross - base) / (best - base))
    assert 0 < gain.low < gain.value < gain.high < 1


def test_there_is_no_gain_where_the_independent_model_is_worse(models):
    old, new, *_ = models
    worse = model(3.0, seed=8)
    assert evaluate_upgrade(old, new, worse, seed=5, replicates=20).update_gain is None


def test_the_procrustes_map_and_the_naive_swap_are_told_apart(figures):
    swap = figures.combinations["independent/old"].mean_average_precision.value
    mapped = figures.combinations["procrustes/old"].mean_average_precision.value
    assert swap < 0.3 < mapped


def test_mixed_galleries_are_nested_and_have_their_share(models, figures):
    old, new, *_ = models
    shares, items = (0.1, 0.5, 0.9), len(old.gallery)
    lines = [figures.calibrations[name].set_on.line() for name in ("new/new", "new/old")]
    parts = mixed_sides(
        new, Pair(new.query, old.gallery), shares, mixed_rows(items, 1.0, 2), *lines
    )
    replaced = []
    for share in shares:
        sides = parts[f"new/{100 * share:g} % new"]
        rows = [normalise(part.gallery.features[:, :DIM]) for part in sides]
        assert sum(map(len, rows)) == items
        # which row of each model each is
        found = [
            next(
                (kind, int(np.flatnonzero(near)[0]))
                for kind, model in (("new", new), ("old", old))
                if (near := np.isclose(model.gallery.features, row, atol=1e-6).all(axis=1)).any()
            )
            for some in rows
            for row in some
        ]
        assert sorted(place for _, place in found) == list(range(items))
        replaced.append({place for kind, place in found if kind == "new"})
        assert replaced[-1] == set(mixed_rows(items, share, 2).tolist())
    assert replaced[0] < replaced[1] < replaced[2]


def test_shares_that_come_to_the_same_rows_or_to_none(models):
    old, new, *_ = models
    shares = (0.0, 0.5, 0.5001, 1.0)
    found = evaluate_upgrade(old, new, seed=5, replicates=20, mixed=shares).combinations
    assert found["new/50 % new"].metrics() == found["new/50.01 % new"].metrics()
    for mixed, whole in (("new/0 % new", "new/old"), ("new/100 % new", "new/new")):
        assert found[mixed].rank1 == found[whole].rank1
        ours, theirs = (found[name].mean_average_precision.value for name in (mixed, whole))
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_flips_are_counted_by_class(models, figures):
    before, after = np.array([1, 1, 1, 2, 0, 1, 3, 2]), np.array([1, 3, 1, 1, 0, 2, 1, 1])
    labels = np.array([4, 4, 7, 7, 9, 7, 8, 8])
    weights = np.array([[1, 1, 1, 1], [4, 0, 0, 0], [0, 4, 0, 0]], np.uint8)
    found = flips_of((before, after), labels, weights, [f"n{i}" for i in range(10)])
    assert found.negative.value == pytest.approx(2 / 7)
    assert found.positive.value == pytest.approx(3 / 7)
    # class 4 alone loses a half, class 7 a third, class 8 nothing
    assert (found.negative.low, found.negative.high) == pytest.approx((2 / 7, 1 / 2), abs=0.02)
    assert found.classes == 2
    assert [(c.name, c.queries, c.lost, c.gained) for c in found.worst] == [
        ("n4", 2, 1, 0),
        ("n7", 3, 1, 1),
    ]
    assert figures.negative_flips == figures.flips.negative.value
    old, new, *_ = models
    ranks = [compare(side.query, old.gallery).rank for side in (old, new)]
    lost = (ranks[0] == 1) & (ranks[1] > 1)
    assert figures.flips.negative.value == lost.mean() > 0
    assert sum(c.lost for c in figures.flips.worst) == lost.sum()
    net = [c.lost - c.gained for c in figures.flips.worst]
    assert net == sorted(net, reverse=True)


def test_the_order_of_a_backfill_is_judged_by_its_area():
    """Old rows of which some are lost among other classes: these are to come first."""
    rng = np.random.default_rng(0)
    classes, each = 40, 12
    centres = rng.standard_normal((classes, DIM))
    labels = np.repeat(np.arange(classes), each)
    extra = np.concatenate([labels, np.zeros(20, np.int64)])  # one class of many

    def side(of, noise):
        return Embeddings(normalise(centres[of] + noise * rng.standard_normal((len(of), DIM))), of)

    poor = np.where(rng.random(len(extra))[:, None] < 0.25, 6.0, 0.5)
    old = Pair(side(labels, 0.7), side(extra, poor))
    new = Pair(side(labels, 0.4), side(extra, 0.4))
    found = evaluate_upgrade(old, new, seed=1, replicates=100, backfill=True)
    curves = {curve.order: curve for curve in found.backfill.curves}
    assert list(curves) == ["random", "credible", "items"]
    assert found.backfill.shares == tuple(i / 10 for i in range(11))
    for curve in curves.values():
        for metric, figures in curve.metrics.items():
            values = [one.value for one in figures]
            assert values[0] == found.combinations["new/old"].metric(metric).value
            assert values[-1] == found.combinations["new/new"].metric(metric).value
            area = curve.areas[metric]
            assert area.value == pytest.approx(np.trapezoid(values, dx=0.1))
            assert area.low <= area.value <= area.high
    # the random one is that of the mixed galleries
    for share in (1, 5, 9):
        mixed = found.combinations[f"new/{10 * share} % new"].mean_average_precision
        assert curves["random"].metrics["mAP"][share] == mixed
    gains = {(d.of, d.minus): d.metrics for d in found.backfill.differences}
    assert set(gains) == {("credible", "random"), ("items", "random"), ("items", "credible")}
    assert gains["credible", "random"]["mAP"].low > 0
    value = curves["credible"].areas["mAP"].value - curves["random"].areas["mAP"].value
    assert gains["credible", "random"]["mAP"].value == pytest.approx(value)
    assert found.backfill.take == "credible"
    # where all classes are of one size, that tells nothing
    old = Pair(old.query, side(labels, 0.7))
    same = evaluate_upgrade(
        old, Pair(new.query, side(labels, 0.4)), seed=1, replicates=100, backfill=True
    )
    assert [curve.order for curve in same.backfill.curves] == ["random", "credible"]


def test_the_carried_threshold_is_measured_on_classes_it_was_not_set_on(models, figures):
    old, new, *_ = models
    carried = figures.carried_threshold
    assert carried.far == 1e-3
    assert carried.old_threshold == compare(old.query, old.gallery).thresholds[1].value
    scores = new.query.features @ old.gallery.features.T
    impostor = scores[new.query.labels[:, None] != old.gallery.labels]
    at_old = np.mean(impostor > carried.old_threshold)
    assert carried.far_at_old_threshold == pytest.approx(at_old, rel=0.25)
    # on all classes together it accepts the mean of the two halves
    everywhere = np.mean(impostor > carried.threshold)
    half = 2 * everywhere - carried.measured_far
    assert -1e-6 <= half <= carried.far
    assert set(figures.calibrations) == {"old/old", "new/old", "new/new"}
    for both in figures.calibrations.values():
        assert (both.set_on.classes, both.unseen.classes) == (CLASSES // 2, CLASSES // 2)


def test_the_same_seed_gives_the_same_figures(models, figures):
    assert evaluate_upgrade(*models, seed=5, replicates=200) == figures
    assert evaluate_upgrade(*models, seed=6, replicates=200) != figures


def test_curves_are_monotone_and_short(clustered):
    comparison = compare(*clustered(queries=600, gallery=500))
    roc = roc_curve(comparison)
    assert 50 < len(roc.x) <= 200
    assert (np.diff(roc.x) > 0).all()
    assert (np.diff(roc.y) >= 0).all()
    assert (roc.x[-1], roc.y[-1]) == (1, 1)
    cmc = cmc_curve(comparison)
    assert cmc.x == tuple(range(1, 21))
    assert cmc.y[0] == comparison.rank_rate(1)
    bins = histogram(comparison)
    for density in (bins.genuine, bins.impostor):
        assert np.sum(density * np.diff(bins.edges)) == pytest.approx(1)


def test_the_roc_curve_goes_through_the_exact_points(clustered):
    comparison = compare(*clustered(queries=600, gallery=500))
    roc = roc_curve(comparison)
    for threshold in comparison.thresholds:
        exact = comparison.true_accept_rate(threshold)
        assert np.interp(threshold.far, roc.x, roc.y) == pytest.approx(exact, abs=0.01)


def test_a_longer_model_with_a_map_is_judged_as_the_same_model_without(models):
    """The map takes back what a rotation into more dimensions did, so nothing may change."""
    old, new, independent, mapped = models
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((24, 24)))[0][:DIM]
    longer = Pair(
        *(
            Embeddings(normalise(side.features @ turn), side.labels)
            for side in (new.query, new.gallery)
        )
    )
    back = Embeddings(normalise(longer.query.features @ turn.T), new.query.labels)
    cross = Pair(back, old.gallery)
    plain = evaluate_upgrade(old, new, independent, mapped, seed=5, replicates=50)
    found = evaluate_upgrade(old, longer, independent, mapped, cross=cross, seed=5, replicates=50)
    assert found.combinations.keys() == plain.combinations.keys()
    for name, combination in plain.combinations.items():
        for metric, figure in combination.metrics().items():
            value = found.combinations[name].metric(metric).value
            assert value == pytest.approx(figure.value, abs=2e-3), (name, metric)
    assert found.update_gain.value == pytest.approx(plain.update_gain.value, abs=1e-3)


def test_models_of_different_dimension_are_refused(models):
    old, new, *_ = models
    short = Pair(
        *(
            Embeddings(normalise(side.features[:, :8]), side.labels)
            for side in (new.query, new.gallery)
        )
    )
    with pytest.raises(FeatureError, match=r"dimension 8 .* dimension 16"):
        evaluate_upgrade(old, short, seed=0)


def test_models_that_saw_other_items_are_refused(models):
    old, new, *_ = models
    fewer = Pair(new.query, new.gallery.take(np.arange(100)))
    with pytest.raises(DataError, match="gallery items of new \\(100 rows\\)"):
        evaluate_upgrade(old, fewer, seed=0)
