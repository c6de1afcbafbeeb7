"""Accuracy over folds against a slow loop; sides of pair features."""

import numpy as np
import pytest

from mixbct.errors import DataError, FeatureError
from mixbct.evaluation.protocols import best_threshold, fold_accuracies, pair_similarities


def slow_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """Try every score and one below; of the best, the highest."""
    best, chosen = -1.0, 0.0
    for value in [np.nextafter(scores.min(), np.float32(-9)), *sorted(set(scores.tolist()))]:
        accuracy = np.mean((scores > np.float32(value)) == same)
        if accuracy >= best:
            best, chosen = accuracy, float(value)
    return chosen


@pytest.mark.parametrize("steps", [3, 20, 10**6])
def test_folds_against_a_slow_loop(steps: int) -> None:
    rng = np.random.default_rng(steps)
    same = rng.random(203) < 0.5
    scores = (np.round((rng.normal(0, 1, 203) + same) * steps) / steps).astype(np.float32)
    fold = rng.permutation(np.arange(203) % 10)
    found = fold_accuracies(scores, same, fold)
    for number in range(10):
        inside = fold == number
        value = slow_threshold(scores[~inside], same[~inside])
        assert found[number].threshold == value
        assert found[number].accuracy == np.mean(
            (scores[inside] > np.float32(value)) == same[inside]
        )


def test_folds_are_runs_of_neighbours_where_none_are_given() -> None:
    rng = np.random.default_rng(0)
    same = rng.random(25) < 0.5
    scores = rng.random(25).astype(np.float32)
    # as KFold(10): five runs of three, then five of two
    fold = np.repeat(np.arange(10), [3] * 5 + [2] * 5)
    assert fold_accuracies(scores, same) == fold_accuracies(scores, same, fold)


def test_ties_at_the_ends_by_hand() -> None:
    scores = np.array([0.1, 0.2, 0.3], np.float32)
    assert best_threshold(scores, np.array([True, True, True])) < np.float32(0.1)
    assert best_threshold(scores, np.array([False, False, False])) == np.float32(0.3)
    # one error at 0.1, none better; at 0.3 as many: the higher
    assert best_threshold(scores, np.array([False, True, False])) == np.float32(0.3)
    tied = np.full(4, 0.5, np.float32)
    assert best_threshold(tied, np.array([True, True, True, False])) < np.float32(0.5)


def test_too_few_pairs_or_folds() -> None:
    with pytest.raises(DataError, match="at least 10 pairs"):
        fold_accuracies(np.zeros(9, np.float32), np.ones(9, bool))
    with pytest.raises(DataError, match="1 folds"):
        fold_accuracies(np.zeros(20, np.float32), np.ones(20, bool), np.zeros(20, np.int64))


def test_the_first_of_a_pair_is_of_the_first_side() -> None:
    rng = np.random.default_rng(0)
    old, new = (rng.standard_normal((6, 8)).astype(np.float32) for _ in range(2))
    pairs = np.array([[0, 1], [1, 0], [5, 5]])
    found = pair_similarities(old, new, pairs)
    for score, (a, b) in zip(found, pairs, strict=True):
        u, v = old[a], new[b]
        assert score == pytest.approx(u @ v / np.linalg.norm(u) / np.linalg.norm(v), abs=1e-6)
    assert found[0] != found[1]


def test_sides_and_rows_that_do_not_fit() -> None:
    old, new = np.ones((3, 4), np.float32), np.ones((3, 6), np.float32)
    with pytest.raises(FeatureError, match=r"\(3, 4\) and \(3, 6\)"):
        pair_similarities(old, new, np.array([[0, 1]]))
    with pytest.raises(DataError, match="rows 0 to 3 of 3"):
        pair_similarities(old, old, np.array([[0, 3]]))
