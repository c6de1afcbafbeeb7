"""TAR at FAR, area and curve against scikit-learn and by hand, with many ties."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from mixbct.errors import DataError
from mixbct.evaluation.protocols import area, at_most, curve, nearest, verification
from mixbct.evaluation.thresholds import trials


def scores(seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return genuine and impostor scores, rounded so that many tie."""
    rng = np.random.default_rng(seed)
    both = rng.normal(0.3, 0.3, 300), rng.normal(0, 0.3, 2000)
    return tuple((np.round(s * steps) / steps).astype(np.float32) for s in both)  # type: ignore[return-value]


def sklearn_points(genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat([1, 0], [len(genuine), len(impostor)])
    fpr, tpr, _ = roc_curve(labels, np.concatenate([genuine, impostor]), drop_intermediate=False)
    return fpr, tpr


@pytest.mark.parametrize("steps", [7, 40, 10**6])
@pytest.mark.parametrize("far", [1e-4, 5e-4, 1e-3, 1.7e-3, 1e-2, 0.1, 0.33, 1.0])
def test_both_choices_of_a_threshold_against_scikit_learn(steps: int, far: float) -> None:
    genuine, impostor = scores(1, steps)
    fpr, tpr = sklearn_points(genuine, impostor)
    found = trials(genuine, impostor)
    strict = at_most(found, far)
    assert strict.genuine / len(genuine) == tpr[fpr <= far].max()
    assert strict.impostors / len(impostor) <= far
    assert strict.resolved == (far >= 5e-4)
    near = nearest(found, far)
    distance = np.abs(fpr - far)
    best = fpr[distance == distance.min()].max()
    assert near.impostors / len(impostor) == best
    assert near.genuine / len(genuine) == tpr[fpr == best].max()
    for threshold in (strict, near):
        assert threshold.genuine == (genuine > np.float32(threshold.value)).sum()
        assert threshold.impostors == (impostor > np.float32(threshold.value)).sum()


@pytest.mark.parametrize("steps", [7, 10**6])
def test_area_and_curve_against_scikit_learn(steps: int) -> None:
    genuine, impostor = scores(2, steps)
    labels = np.repeat([1, 0], [len(genuine), len(impostor)])
    found = trials(genuine, impostor)
    assert area(found) == pytest.approx(
        roc_auc_score(labels, np.concatenate([genuine, impostor])), abs=1e-12
    )
    known = dict(zip(*sklearn_points(genuine, impostor), strict=True))  # the highest TAR of a FAR
    points = curve(found)
    assert len(points.x) > 5
    assert [known[x] for x in points.x] == list(points.y)
    assert (points.x[-1], points.y[-1]) == (1, 1)
    assert list(points.x) == sorted(set(points.x))


def test_one_impostor_among_the_genuine_by_hand() -> None:
    found = verification(
        np.array([0.9, 0.5, 0.5, 0.2], np.float32),
        np.array([0.5, 0.1, 0.0, -0.1], np.float32),
        (0.1, 0.25, 0.5),
    )
    assert [p.rate for p in found.points] == [0.25, 1.0, 1.0]
    assert [p.measured for p in found.points] == [0, 0.25, 0.5]
    assert [p.resolved for p in found.points] == [False, True, True]
    # 0.1 is nearer to 0 than to a quarter; an eighth would be as near to both
    assert [p.rate for p in found.nearest_points] == [0.25, 1.0, 1.0]
    assert found.auc == (4 + 3.5 + 3.5 + 3) / 16
    assert nearest(trials(np.ones(1, np.float32), np.full(4, 0.5, np.float32)), 0.6).impostors == 4


def test_trials_of_one_kind_alone_and_scores_that_are_no_numbers() -> None:
    some = np.ones(3, np.float32)
    with pytest.raises(DataError, match="3 genuine and 0 impostor"):
        trials(some, some[:0])
    with pytest.raises(DataError, match="not numbers"):
        trials(some, np.array([0, np.nan], np.float32))
