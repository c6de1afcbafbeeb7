"""Against a loop that really repeats the classes it drew."""

import subprocess
import sys

import numpy as np
import pytest

from mixbct.distributed import row_rng
from mixbct.evaluation import bootstrap
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
    weights = class_weights(len(query.classes), 30, seed=3)
    comparison = compare(query, gallery, fars=FARS, weights=weights)
    assert not comparison.skipped.any()
    figures = replicate_metrics(comparison)
    assert set(figures) == set(NAMES)
    for r in range(30):
        for name, value in explicit(query, gallery, weights[r]).items():
            assert figures[name][r] == pytest.approx(value, abs=1e-9)


def test_replicates_on_the_coarse_grid_are_close_to_the_loop(clustered):
    query, gallery = clustered(queries=300, gallery=400, classes=20)
    weights = class_weights(20, 20, seed=0)
    comparison = compare(query, gallery, fars=FARS, weights=weights)
    assert comparison.skipped.any()
    figures = replicate_metrics(comparison)
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
    comparison = compare(query, gallery, fars=FARS, weights=np.ones((1, 10)))
    figures = replicate_metrics(comparison)
    assert figures["mAP"][0] == pytest.approx(comparison.mean_average_precision())
    assert figures["rank-5"][0] == pytest.approx(comparison.rank_rate(5))
    for name, threshold in zip(NAMES[3:], comparison.thresholds, strict=True):
        assert figures[name][0] == comparison.true_accept_rate(threshold)


def test_a_replicate_without_a_mated_query_has_no_figure(tied):
    only_unmated = (tied[0].classes == 3).astype(np.float64)
    comparison = compare(*tied, weights=only_unmated[None])
    assert np.isnan(replicate_metrics(comparison)["mAP"]).all()


def test_weights_are_seeded_multinomial_counts():
    weights = class_weights(50, 400, seed=1)
    np.testing.assert_array_equal(weights, class_weights(50, 400, seed=1))
    assert not np.array_equal(weights, class_weights(50, 400, seed=2))
    assert set(weights.sum(axis=1)) == {50}
    assert weights.var() == pytest.approx(1 - 1 / 50, rel=0.05)


def test_a_part_at_a_time_the_same_classes_are_drawn(monkeypatch):
    rng = row_rng(7, 300)
    whole = rng.multinomial(90, np.full(90, 1 / 90), size=300)
    monkeypatch.setattr(bootstrap, "_MOST_NUMBERS", 1000)
    np.testing.assert_array_equal(class_weights(90, 300, seed=7), whole)
    values, of = np.random.default_rng(0).random(400), np.arange(400) % 90
    expected = (whole @ np.bincount(of, values)) / (whole @ np.bincount(of))
    found = bootstrap.mean_replicates(values, of, class_weights(90, 300, seed=7))
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_memory_does_not_grow_with_replicates_times_classes():
    """In a process of its own; 35,000 more classes would take 168 MB as float64, once."""
    done = subprocess.run(
        [sys.executable, "-c", _MANY_CLASSES], check=True, capture_output=True, text=True
    )
    few, many = map(float, done.stdout.split())
    assert many - few < 120


_MANY_CLASSES = """
import re
from pathlib import Path
import numpy as np
from mixbct.data.bank import normalise
from mixbct.evaluation import bootstrap
from mixbct.evaluation.combination import judge_all
from mixbct.evaluation.scores import Embeddings, Pair
rng = np.random.default_rng(0)
bootstrap._MOST_NUMBERS = 2**18
for classes in (5_000, 40_000):
    query = Embeddings(normalise(rng.standard_normal((classes, 8))), np.arange(classes))
    both = Pair(query, query.take(np.arange(1000)))
    judge_all({"old/old": [both]}, bootstrap.class_weights(classes, 600, 0), (1e-2,))
    status = Path("/proc/self/status").read_text()
    print(int(re.findall(r"VmHWM:\\s+(\\d+) kB", status)[0]) / 1024)
"""


def test_the_interval_leaves_out_what_has_no_figure():
    replicates = np.append(np.arange(101.0), np.nan)
    found = estimate(7.0, replicates)
    assert (found.value, found.low, found.high) == (7.0, 2.5, 97.5)


def test_the_interval_holds_the_value():
    replicates = np.arange(101.0)
    assert estimate(1.0, replicates).low == 1
    assert estimate(99.0, replicates).high == 99
