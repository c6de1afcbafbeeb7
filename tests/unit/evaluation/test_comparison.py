"""Against scikit-learn, torchmetrics and slow loops, with and without ties."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_curve
from torchmetrics.functional.retrieval import retrieval_average_precision

from mixbct.errors import DataError
from mixbct.evaluation import comparison, counting
from mixbct.evaluation.bootstrap import class_weights, replicate_metrics
from mixbct.evaluation.comparison import compare, compare_all
from mixbct.evaluation.scores import Embeddings, Pair
from mixbct.evaluation.thresholds import Grid, allowed_impostors, even_marks

FARS = (0.3, 0.1, 1e-2, 1e-3, 1e-5)


@pytest.fixture(params=["few pairs", "many pairs", "more than a sample", "ties"])
def sides(request, clustered, tied, monkeypatch):
    if request.param == "more than a sample":
        monkeypatch.setattr("mixbct.evaluation.thresholds._SAMPLE_PAIRS", 1)
    if request.param == "ties":
        return tied
    if request.param == "few pairs":
        return clustered()
    return clustered(queries=240, gallery=300, classes=12)


def dense(query, gallery):
    # in the library's arithmetic, so that equal scores are equal here too
    scores = (torch.from_numpy(query.features) @ torch.from_numpy(gallery.features).T).numpy()
    return scores, query.labels[:, None] == gallery.labels


def test_average_precision_is_scikit_learns(sides):
    scores, same = dense(*sides)
    found = compare(*sides)
    for row in range(len(scores)):
        if same[row].any():
            expected = average_precision_score(same[row], scores[row])
            assert found.average_precision[row] == pytest.approx(expected, abs=1e-9)
        else:
            assert np.isnan(found.average_precision[row])


def test_average_precision_is_torchmetrics_where_nothing_ties(clustered):
    sides = clustered()
    scores, same = dense(*sides)
    # it takes items that score 0 or less for missing
    expected = [
        retrieval_average_precision(torch.from_numpy(s) + 2, torch.from_numpy(t))
        for s, t in zip(scores, same, strict=True)
    ]
    found = compare(*sides).mean_average_precision()
    assert found == pytest.approx(np.mean(expected), abs=1e-6)


def test_rank_is_that_of_a_slow_loop_and_pessimistic(sides):
    scores, same = dense(*sides)
    found = compare(*sides)
    for row in range(len(scores)):
        rank = 0
        if same[row].any():
            best = max(scores[row][same[row]])
            rank = 1 + sum(s >= best for s in scores[row][~same[row]])
        assert found.rank[row] == rank
    mated = found.rank[found.rank > 0]
    assert found.rank_rate(5) == np.mean(mated <= 5)


def test_tar_at_far_is_read_off_scikit_learns_roc(sides):
    scores, same = dense(*sides)
    far, tar, cut = roc_curve(same.ravel(), scores.ravel(), drop_intermediate=False)
    found = compare(*sides, fars=FARS)
    for wanted, threshold in zip(FARS, found.thresholds, strict=True):
        point = np.flatnonzero(far <= wanted)[-1]
        assert found.true_accept_rate(threshold) == tar[point]
        assert threshold.impostors == round(far[point] * (~same).sum())
        # scikit-learn accepts from its cut on, we accept above the next impostor
        assert threshold.value < cut[point]
        assert threshold.impostors == (scores[~same] > threshold.value).sum()
        assert threshold.genuine == (scores[same] > threshold.value).sum()
        assert threshold.resolved == (wanted * (~same).sum() >= 1)


def test_threshold_is_the_order_statistic(sides):
    scores, same = dense(*sides)
    impostors = np.sort(scores[~same])[::-1]
    for threshold in compare(*sides, fars=FARS).thresholds:
        place = allowed_impostors(threshold.far, len(impostors))
        assert threshold.value == impostors[place]


def test_all_pairs_that_tie_are_accepted_together():
    features = np.ones((6, 1), np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2])
    found = compare(Embeddings(features, labels), Embeddings(features, labels), fars=(0.5,))
    assert found.thresholds[0].value == 1
    assert found.thresholds[0].impostors == found.thresholds[0].genuine == 0
    assert set(found.rank) == {5}
    np.testing.assert_allclose(found.average_precision, 1 / 3)
    assert (found.genuine_bins.sum(), found.impostor_bins.sum()) == (12, 24)
    assert (np.diff(found.grid.bins) > 0).all()


def test_class_counts_and_histogram_count_every_pair(sides):
    scores, same = dense(*sides)
    query, _ = sides
    # replicate c draws class c alone
    found = compare(*sides, weights=np.eye(len(query.classes)))
    impostors = scores[~same]
    between = [
        ((impostors > low) & (impostors < high)).any()
        for low, high in itertools.pairwise(found.grid.edges)
    ]
    np.testing.assert_array_equal(found.skipped, between)
    assert found.skipped.any() == (len(np.unique(impostors)) > 4096)
    for c, label in enumerate(found.classes):
        of_class = query.labels == label
        for counts, kind in zip(found.drawn_above, (same, ~same), strict=True):
            values = scores[of_class][kind[of_class]]
            expected = [(values > edge).sum() for edge in found.grid.edges]
            np.testing.assert_array_equal(counts[c], expected)
    np.testing.assert_array_equal(found.drawn_above[0].sum(axis=0), found.genuine_above)
    np.testing.assert_array_equal(found.drawn_above[1].sum(axis=0), found.impostor_above)
    edges = found.grid.bins.astype(np.float64)
    edges[[0, -1]] = -np.inf, np.inf
    for bins, kind in ((found.genuine_bins, same), (found.impostor_bins, ~same)):
        # an edge belongs to the bin below it
        expected = [
            ((scores[kind] > low) & (scores[kind] <= high)).sum()
            for low, high in itertools.pairwise(edges)
        ]
        np.testing.assert_array_equal(bins, expected)


def test_the_grid_from_a_sample_of_the_queries_changes_no_exact_figure(clustered, monkeypatch):
    sides = clustered(queries=240, gallery=300, classes=12)
    whole = compare(*sides, fars=FARS)
    monkeypatch.setattr("mixbct.evaluation.thresholds._SAMPLE_PAIRS", 1)
    sampled = compare(*sides, fars=FARS)
    assert len(sampled.grid.edges) < len(whole.grid.edges)
    assert sampled.thresholds == whole.thresholds


def test_a_threshold_outside_its_bracket_is_found_by_a_second_walk(sides, monkeypatch):
    expected = compare(*sides, fars=FARS).thresholds
    walks = []
    walk = comparison._walk
    monkeypatch.setattr(comparison, "_walk", lambda *args: (walks.append(1), walk(*args)))
    wrong = np.array([[0.2, 0.21]] * len(FARS), np.float32)
    monkeypatch.setattr(comparison, "guess_brackets", lambda *_: wrong)
    assert compare(*sides, fars=FARS).thresholds == expected
    assert len(walks) == 2


def test_one_walk_is_enough_where_the_sample_is_a_part_of_the_pairs(clustered, monkeypatch):
    monkeypatch.setattr("mixbct.evaluation.thresholds._SAMPLE_QUERIES", 60)
    monkeypatch.setattr("mixbct.evaluation.thresholds._SAMPLE_ITEMS", 50)
    walks = []
    walk = comparison._walk
    monkeypatch.setattr(comparison, "_walk", lambda *args: (walks.append(1), walk(*args)))
    scores, same = dense(*(sides := clustered(queries=240, gallery=300, classes=12)))
    found = compare(*sides, fars=(0.1, 0.01)).thresholds
    impostors = np.sort(scores[~same])[::-1]
    for threshold in found:
        assert threshold.value == impostors[allowed_impostors(threshold.far, len(impostors))]
    assert len(walks) == 1


def exact(side):
    """Return a side whose cosines are multiples of 1/16: the same bits in any order of a sum."""
    signs = np.where(side.features < 0, -1, 1) / 4
    return Embeddings(signs.astype(np.float32), side.labels)


def test_galleries_that_share_parts_are_counted_as_each_by_itself(clustered):
    for noise in (0.5, 1.5):
        made = clustered(queries=240, gallery=300, classes=12, dim=16, noise=noise)
        query, gallery = map(exact, made)
        others = Embeddings(gallery.features[::-1].copy(), gallery.labels[::-1].copy())
        parts = [gallery.take(rows) for rows in np.split(np.arange(len(gallery)), [7, 90])]
        first, second, third = (Pair(query, part) for part in parts)
        other = Pair(query, others.take(np.arange(7)))
        weights = class_weights(len(query.classes), 20, seed=1)
        sides = {"all": [first, second, third], "some": [other, second, third]}
        found = compare_all(sides, weights=weights)
        for name, kept in sides.items():
            whole = Embeddings(
                np.concatenate([part.gallery.features for part in kept]),
                np.concatenate([part.gallery.labels for part in kept]),
            )
            expected = compare(query, whole, weights=weights)
            for field in dataclasses.fields(expected):
                if field.name == "grid":
                    continue
                ours, theirs = getattr(found[name], field.name), getattr(expected, field.name)
                np.testing.assert_array_equal(ours, theirs, err_msg=field.name)


@pytest.mark.parametrize("budget", [1, 5_000, 60_000])
def test_the_block_size_changes_nothing(tied, budget):
    whole, blocks = compare(*tied), compare(*tied, budget=budget)
    for name in ("average_precision", "rank", "genuine_above", "impostor_above", "genuine_bins"):
        np.testing.assert_array_equal(getattr(blocks, name), getattr(whole, name))
    assert blocks.thresholds == whole.thresholds


def test_the_order_of_rows_changes_nothing(tied):
    query, gallery = tied
    rng = np.random.default_rng(0)
    order = rng.permutation(len(query))
    shuffled = compare(query.take(order), gallery.take(rng.permutation(len(gallery))))
    whole = compare(query, gallery)
    np.testing.assert_array_equal(shuffled.rank, whole.rank[order])
    np.testing.assert_array_equal(shuffled.genuine_above, whole.genuine_above)
    assert shuffled.thresholds == whole.thresholds


@pytest.mark.parametrize("far", [0.29, 0.001, 0.07, 1 / 3, 0.5])
@pytest.mark.parametrize("pairs", [3, 100, 1000, 10**9 + 7])
def test_allowed_impostors_is_the_largest_count_within_the_rate(far, pairs):
    k = allowed_impostors(far, pairs)
    assert k / pairs <= far < (k + 1) / pairs


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 2, 3]])
def test_a_set_without_genuine_or_without_impostor_pairs_is_refused(labels):
    features = np.eye(3, dtype=np.float32)
    with pytest.raises(DataError, match="genuine and impostor pairs are both needed"):
        compare(Embeddings(features, np.zeros(3, np.int64)), Embeddings(features, np.array(labels)))


def test_a_rate_out_of_range_is_refused(tied):
    with pytest.raises(DataError, match="between 0 and 1"):
        compare(*tied, fars=(1.5,))


def everything(comparison):
    return {f.name: getattr(comparison, f.name) for f in dataclasses.fields(comparison)}


@pytest.mark.parametrize("few", [0, 32])
def test_long_rows_are_counted_as_short_ones(sides, monkeypatch, few):
    weights = class_weights(len(sides[0].classes), 20, seed=1)
    expected = everything(compare(*sides, fars=FARS, weights=weights))
    monkeypatch.setattr(counting, "_LONG", 1)
    monkeypatch.setattr(counting, "_FEW", few)
    monkeypatch.setattr(counting, "_AT_A_TIME", 3000)
    found = everything(compare(*sides, fars=FARS, weights=weights))
    del found["grid"], expected["grid"]
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_device_counts_as_main_memory_does(sides, monkeypatch):
    weights = class_weights(len(sides[0].classes), 20, seed=1)
    expected = everything(compare(*sides, fars=FARS, weights=weights))

    def see(block, genuine, begins, grid, places, low, _):
        own = (block.genuine > -torch.inf).sum(dim=1).numpy()
        of_class = np.repeat(np.arange(len(begins)), np.diff([*begins, len(own)]))
        return counting.see_on_device(block.impostor, genuine, own, of_class, grid, places, low)

    monkeypatch.setattr(comparison, "see", see)
    found = everything(compare(*sides, fars=FARS, weights=weights))
    del found["grid"], expected["grid"]
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("ends", [(-0.4, 0.9), (-1.0, 1.0), (0.97, 0.9701), (0.999, 1.001)])
def test_the_code_of_a_score_is_how_many_marks_lie_below_it(ends):
    marks, step, lowest = even_marks(*ends)
    grid = Grid(marks, marks[:2], marks[:2], step, lowest)
    assert (np.diff(marks) > 0).all()
    assert 4096 <= len(marks) <= 8200 or step == 2.0**-21
    beside = [np.nextafter(marks, np.float32(way)) for way in (-2, 2)]
    random = np.random.default_rng(0).uniform(-1.003, 1.003, 5000).astype(np.float32)
    scores = np.concatenate([marks, *beside, random, np.float32([-np.inf, -1, 0, 1])])[None]
    added = np.array([7])
    codes = grid.codes(scores, added, np.empty_like(scores))
    expected = np.searchsorted(marks, scores) + 7
    np.testing.assert_array_equal(codes, expected)
    searched = dataclasses.replace(grid, step=0.0)
    np.testing.assert_array_equal(searched.codes(scores, added, scores), expected)


def test_most_pairs_may_tie_where_there_are_more_than_a_sample(monkeypatch):
    """As of vectors that are mostly zero: no threshold lies within the group."""
    monkeypatch.setattr("mixbct.evaluation.thresholds._SAMPLE_PAIRS", 1)
    monkeypatch.setattr("mixbct.evaluation.thresholds._FEWEST_QUERIES", 150)
    rng = np.random.default_rng(0)

    def side(rows):
        labels = np.arange(rows) % 40
        places = np.where(rng.random((rows, 3)) < 0.4, 3 * labels[:, None], 120) + np.arange(3)
        places = np.where(places >= 120, rng.integers(120, 300, (rows, 3)), places)
        features = np.zeros((rows, 300), np.float32)
        features[np.arange(rows)[:, None], places] = rng.random((rows, 3)) + 0.1
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        return Embeddings(features / lengths, labels)

    query, gallery = side(400), side(300)
    scores, same = dense(query, gallery)
    assert (scores[~same] == 0).mean() > 0.5
    weights = class_weights(len(query.classes), 200, seed=1)
    found = compare(query, gallery, fars=(0.3,), weights=weights)
    assert found.grid.step == 0
    tar = found.true_accept_rate(found.thresholds[0])
    drawn = replicate_metrics(found)["TAR@3e-1"]
    assert np.percentile(drawn, 2.5) < tar < np.percentile(drawn, 97.5)


def test_galleries_of_other_scales_do_not_disturb_each_other(clustered):
    query, gallery = clustered(queries=240, gallery=300, classes=12)
    apart = [
        Embeddings(
            np.concatenate([side.features * 0.1, np.full((len(side), 1), 0.99499, np.float32)], 1),
            side.labels,
        )
        for side in (query, gallery)
    ]
    weights = class_weights(len(query.classes), 20, seed=1)
    sides = {"wide": [Pair(query, gallery)], "narrow": [Pair(*apart)]}
    for name, value in compare_all(sides, weights=weights).items():
        alone = compare(sides[name][0].query, sides[name][0].gallery, weights=weights)
        np.testing.assert_array_equal(value.grid.edges, alone.grid.edges)
        np.testing.assert_array_equal(value.drawn_above, alone.drawn_above)


def test_labels_may_be_any_whole_numbers(tied):
    query, gallery = tied
    far = [Embeddings(side.features, side.labels + 2**60) for side in tied]
    weights = np.eye(len(query.classes))
    expected = compare(query, gallery, weights=weights)
    np.testing.assert_array_equal(compare(*far, weights=weights).drawn_above, expected.drawn_above)
