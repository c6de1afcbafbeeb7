"""Calibrations against brute force: every impostor score counted by a loop."""

from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from mixbct.data.bank import normalise
from mixbct.errors import DataError
from mixbct.evaluation.calibration import calibrate, calibrate_halves
from mixbct.evaluation.comparison import compare
from mixbct.evaluation.scores import Embeddings
from mixbct.schemas.calibration import Calibration


def impostor_scores(query, gallery, classes):
    """Return, ascending, the scores of all pairs of different classes, query by query."""
    found = []
    for vector, label in zip(query.features, query.labels, strict=True):
        if label in classes:
            others = gallery.features[gallery.labels != label]
            found.extend(float(vector @ other) for other in others)
    return np.sort(np.array(found, dtype=np.float32))


def counted(sides, chosen):
    """Return a comparison, and the impostor pairs of some of its classes above each edge."""
    found = compare(*sides, weights=chosen[None].astype(np.uint8))
    return found, found.drawn_above[1, 0].astype(np.int64)


def calibrate_all(comparison):
    """Return the calibration by the impostor pairs of all classes."""
    return calibrate(comparison, comparison.impostor_above, len(comparison.classes))


def share_at_least(scores, value):
    return np.mean(scores >= np.float32(value))


@pytest.fixture
def few(clustered):
    """So few pairs that each of their scores is an edge."""
    return clustered(queries=24, gallery=36, classes=6, dim=8)


@pytest.fixture(scope="module")
def many():
    """Half a million impostor pairs, with a long tail of look-alikes."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 12))
    centres[1::2] = 0.5 * centres[1::2] + centres[::2]
    labels = np.arange(720) % 40
    sides = [
        Embeddings(normalise(centres[labels] + rng.standard_normal((720, 12))), labels)
        for _ in range(2)
    ]
    return sides, compare(*sides)


def test_few_pairs_come_out_as_they_are(few):
    chosen = np.array([True, False, True, True, False, True])
    comparison, above = counted(few, chosen)
    found = calibrate(comparison, above, 4)
    scores = impostor_scores(*few, comparison.classes[chosen])
    assert (found.pairs, found.classes) == (len(scores), 4)
    # between two scores, since products may differ in the last bit from those of a block
    apart = np.flatnonzero(np.diff(scores) > 1e-5)
    between = ((scores[apart] + scores[apart + 1]) / 2).astype(np.float32)
    exact = np.array([share_at_least(scores, score) for score in between])
    given = found.rate(between)
    assert np.abs(given / exact - 1)[exact < 0.5].max() < 0.15
    tail = exact * len(scores) < 4.5  # pair by pair
    np.testing.assert_allclose(given[tail], exact[tail])
    assert tail.sum() > 2
    for count in (1, 2, 3):
        value = found.threshold(count / len(scores))
        assert (scores > value + 1e-6).sum() == count
        assert found.rate_above(value) * len(scores) == pytest.approx(count)


def test_many_pairs_are_close_everywhere_and_closest_at_powers_of_ten(many):
    (query, gallery), comparison = many
    found = calibrate_all(comparison)
    scores = impostor_scores(query, gallery, comparison.classes)
    assert found.pairs == len(scores) > 500_000
    assert len(found.scores) < 200
    ranks = np.unique(np.geomspace(30, len(scores), 400).astype(int))
    tried = scores[-ranks]
    exact = np.array([share_at_least(scores, score) for score in tried])
    assert np.abs(found.rate(tried) / exact - 1)[exact < 0.5].max() < 0.1
    for far in (1e-1, 1e-2, 1e-3, 1e-4):
        accepted = (scores > found.threshold(far)).mean()
        assert accepted == pytest.approx(far, rel=0.02)
    for far in (0.7, 0.03, 5e-4, 2e-4):
        assert (scores > found.threshold(far)).mean() == pytest.approx(far, rel=0.03)


def test_it_never_rises_and_ends_are_kept(many, few, tied):
    for comparison in (many[1], compare(*few), compare(*tied)):
        found = calibrate_all(comparison)
        rates = found.rate(np.linspace(-1.1, 1.1, 5001).astype(np.float32))
        assert (np.diff(rates) <= 0).all()
        assert rates[0] == 1
        assert rates[-1] == pytest.approx(1 / found.pairs)  # "fewer than one" is not claimed
        assert found.least == 30 / found.pairs
        fars = np.geomspace(1, 1e-9, 200)
        values = [found.threshold(far) for far in fars]
        assert (np.diff(values) >= 0).all()
        assert found.rate_above(values[-1]) == rates[-1]


def test_scores_that_tie_fall_together(tied):
    comparison = compare(*tied)
    found = calibrate_all(comparison)
    scores = impostor_scores(*tied, comparison.classes)
    levels = np.unique(scores)
    assert len(levels) < 60  # each of hundreds of pairs
    high = levels[[share_at_least(scores, level) < 0.5 for level in levels]]
    for level in high:
        exact = share_at_least(scores, level)
        assert found.rate(level) == pytest.approx(exact, rel=0.26)
    top = high[-6:]
    for below, level in pairwise(top):
        assert found.rate(level) == pytest.approx(share_at_least(scores, level))
        between = np.float32((below + level) / 2)
        assert found.rate(between) == pytest.approx(share_at_least(scores, level))


def test_one_score_for_almost_every_pair():
    """What collapsed: nine of ten vectors are the same."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 20

    def side():
        features = normalise(rng.standard_normal((400, 6)))
        features[rng.random(400) < 0.9] = np.eye(6, dtype=np.float32)[0]
        return Embeddings(features, labels)

    sides = side(), side()
    found = calibrate_all(compare(*sides))
    scores = impostor_scores(*sides, np.arange(20))
    at_one = share_at_least(scores, 1.0)
    assert at_one > 0.75
    assert found.rate(np.float32(1)) == pytest.approx(at_one)
    assert found.threshold(1e-3) == 1  # nothing is above it: no impostor, and nobody else
    assert (scores > found.threshold(0.5)).sum() == 0
    assert found.rate(np.float32(0.5)) < 0.9


def test_halves_are_apart_and_together_all(many):
    chosen = np.arange(40) < 15
    comparison, above = counted(many[0], chosen)
    halves = calibrate_halves(comparison, above, chosen)
    assert (halves.set_on.classes, halves.unseen.classes) == (15, 25)
    whole = calibrate_all(comparison)
    assert halves.set_on.pairs + halves.unseen.pairs == whole.pairs
    value = whole.threshold(1e-2)
    assert halves.rate_above(value) == pytest.approx(1e-2, rel=0.03)


def test_no_impostor_pair_is_refused():
    sides = [
        Embeddings(np.eye(3, dtype=np.float32), np.array(labels)) for labels in ([0, 0, 1], [0] * 3)
    ]
    comparison, above = counted(sides, np.array([True, False]))
    with pytest.raises(DataError, match="1 query classes have no impostor pair"):
        calibrate(comparison, above, 1)


@pytest.mark.parametrize(
    ("scores", "accepted"),
    [((0.1, 0.1), (9, 1)), ((0.1, 0.2), (8, 1)), ((0.1, 0.2, 0.3), (9, 1, 2)), ((0, 1), (9,))],
)
def test_a_record_that_is_none_is_refused(scores, accepted):
    with pytest.raises(ValidationError):
        Calibration(pairs=9, classes=2, scores=scores, accepted=accepted)
    good = Calibration(pairs=9, classes=2, scores=(0.1, 0.2), accepted=(9, 0))
    assert Calibration.model_validate_json(good.to_json()) == good


def test_the_line_that_contracts_are_ranked_on_counts_decades(many):
    sides, comparison = many
    found = calibrate_all(comparison)
    begin, unit = found.line()
    assert begin == found.threshold(1e-1)
    decades = np.log10(0.1 / 3e-4)
    assert begin + decades * unit == pytest.approx(found.threshold(3e-4))
    # fewer pairs: to the lowest rate that they support
    half = calibrate(*counted(sides, np.arange(40) < 1), 1)
    begin, unit = half.line()
    assert half.least > 3e-4
    decades = np.log10(0.1 / half.least)
    assert begin + decades * unit == pytest.approx(half.threshold(half.least))
