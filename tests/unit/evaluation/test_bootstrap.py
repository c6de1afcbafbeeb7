"""Against a loop that really repeats the classes it drew."""

import numpy as np
import pytest

from mixbct.evaluation.bootstrap import class_weights, estimate, replicate_metrics
from mixbct.evaluation.comparison import compare

FARS = (0.1, 0.01)
NAMES = ("mAP", "rank-1", "rank-5", "TAR@1e-1", "TAR@1e-2")


def explicit(query, gallery, weights):
    """Repeat every query as often as its class was drawn and evaluate the lot from scratch."""
    scores = query.features @ gallery.features.T
    same = query.labels[:, None] == gallery.labels
    times = weights[np.searchsorted(np.unique(query.labels), query.labels)].astype(int)
    drawn = np.repeat(np.arange(len(query)), times)
    figures = {name: [] for name in NAMES[:3]}
    for row in drawn:
        genuine, impostors = scores[row][same[row]], scores[row][~same[row]]
        if len(genuine):
            everything = scores[row]
            precision = [(genuine >= s).sum() / (everything >= s).sum() for s in genuine]
            rank = 1 + (impostors >= genuine.max()).sum()
            figures["mAP"].append(np.mean(precision))
            figures["rank-1"].append(rank <= 1)
            figures["rank-5"].append(rank <= 5)
    result = {name: np.mean(values) for name, values in figures.items()}
    genuine, impostors = scores[drawn][same[drawn]], np.sort(scores[drawn][~same[drawn]])[::-1]
    for far, name in zip(FARS, NAMES[3:], strict=True):
        threshold = impostors[int(np.floor(far * len(impostors)))]
        result[name] = np.mean(genuine > threshold)
    return result


@pytest.mark.parametrize("kind", ["distinct", "ties"])
def test_replicates_equal_an_explicit_loop(kind, clustered, tied):
    query, gallery = clustered(queries=40, gallery=60, classes=7)
    if kind == "ties":
        query, gallery = tied
    comparison = compare(query, gallery, fars=FARS)
    assert not comparison.skipped.any()
    weights = class_weights(len(comparison.classes), 30, seed=3)
    figures = replicate_metrics(comparison, weights)
    assert set(figures) == set(NAMES)
    for r in range(30):
        for name, value in explicit(query, gallery, weights[r]).items():
            assert figures[name][r] == pytest.approx(value, abs=1e-9)


def test_replicates_on_the_coarse_grid_are_close_to_the_loop(clustered):
    query, gallery = clustered(queries=300, gallery=400, classes=20)
    comparison = compare(query, gallery, fars=FARS)
    assert comparison.skipped.any()
    weights = class_weights(20, 20, seed=0)
    figures = replicate_metrics(comparison, weights)
    errors = np.array(
        [
            [figures[name][r] - value for name, value in explicit(query, gallery, w).items()]
            for r, w in enumerate(weights)
        ]
    )
    assert np.abs(errors[:, :3]).max() < 1e-6
    # of TAR: well below the spread of the replicates, and not to one side
    assert np.abs(errors[:, 3:]).max() < 0.01 < figures["TAR@1e-2"].std()
    assert np.abs(errors[:, 3:].mean()) < 1e-3


def test_every_class_drawn_once_gives_the_exact_figures(clustered):
    query, gallery = clustered(queries=40, gallery=60)
    comparison = compare(query, gallery, fars=FARS)
    figures = replicate_metrics(comparison, np.ones((1, 10)))
    assert figures["mAP"][0] == pytest.approx(comparison.mean_average_precision())
    assert figures["rank-5"][0] == pytest.approx(comparison.rank_rate(5))
    for name, threshold in zip(NAMES[3:], comparison.thresholds, strict=True):
        assert figures[name][0] == comparison.true_accept_rate(threshold)


def test_a_replicate_without_a_mated_query_has_no_figure(tied):
    comparison = compare(*tied)
    only_unmated = (comparison.classes == 3).astype(np.float64)
    assert np.isnan(replicate_metrics(comparison, only_unmated[None])["mAP"]).all()


def test_weights_are_seeded_multinomial_counts():
    weights = class_weights(50, 400, seed=1)
    np.testing.assert_array_equal(weights, class_weights(50, 400, seed=1))
    assert not np.array_equal(weights, class_weights(50, 400, seed=2))
    assert set(weights.sum(axis=1)) == {50}
    assert weights.var() == pytest.approx(1 - 1 / 50, rel=0.05)


def test_the_interval_leaves_out_what_has_no_figure():
    replicates = np.append(np.arange(101.0), np.nan)
    found = estimate(7.0, replicates)
    assert (found.value, found.low, found.high) == (7.0, 2.5, 97.5)


def test_the_interval_holds_the_value():
    replicates = np.arange(101.0)
    assert estimate(1.0, replicates).low == 1
    assert estimate(99.0, replicates).high == 99
