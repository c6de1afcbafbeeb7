import numpy as np
import pytest
from processes import run_world

from mixbct.adapters import whiten
from mixbct.adapters.moments import Pairs
from mixbct.adapters.whiten import whitening
from mixbct.data.bank import normalise
from mixbct.distributed import World
from mixbct.errors import FeatureError
from mixbct.features.bridged import ReadRows


def classes(n: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors whose classes differ in some directions and spread in others."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 12
    means = rng.standard_normal((12, 6)) * (1, 1, 1, 0.1, 0.1, 0.1) + 1
    return normalise(means[labels] + rng.standard_normal((n, 6)) * (0.1, 0.1, 0.1, 1, 1, 1)), labels


@pytest.mark.parametrize("shrinkage", [1e-9, 0.3])
def test_within_classes_all_directions_weigh_alike(shrinkage: float) -> None:
    vectors, labels = classes()
    offsets = vectors.astype(np.float64)
    for label in range(12):
        offsets[labels == label] -= offsets[labels == label].mean(axis=0)
    within = offsets.T @ offsets / len(offsets)
    shrunk = (1 - shrinkage) * within + shrinkage * within.trace() / 6 * np.eye(6)
    matrix, offset = whitening(vectors, labels, shrinkage).arrays
    np.testing.assert_allclose(matrix.T @ shrunk @ matrix, np.eye(6), atol=1e-3)
    np.testing.assert_allclose(offset, -vectors.mean(axis=0) @ matrix, atol=1e-4)


def test_it_tells_classes_better_apart() -> None:
    vectors, labels = classes()
    side, _ = whiten.fit(Pairs(vectors, vectors, labels), shrinkage=0.05)
    gaps = []
    for rows in (vectors, normalise(side.apply(vectors))):
        cosines = rows @ rows.T
        same = labels[:, None] == labels
        gaps.append(cosines[same].mean() - cosines[~same].mean())
    assert gaps[1] > 2 * gaps[0]


def test_without_classes_of_two_it_is_that_of_all() -> None:
    vectors, _ = classes()
    plain = whitening(vectors, None, 0.3)
    assert whitening(vectors, np.arange(len(vectors)), 0.3) == plain
    values = np.linalg.eigvalsh(np.cov(plain.apply(vectors).T, bias=True))
    assert values.max() < 1 / 0.7 + 1e-3
    # of one class alone, that class is all
    assert whitening(vectors, np.zeros(len(vectors), np.int64), 0.3) == plain


def test_both_sides_have_the_one_map_of_the_stored_side() -> None:
    vectors, labels = classes()
    others = normalise(vectors + 0.5)
    query, gallery = whiten.fit(Pairs(others, vectors, labels))
    assert query == gallery == whitening(vectors, labels, whiten.SHRINKAGE)
    with pytest.raises(FeatureError, match=r"queries of 5 dimensions with rows of 6: fit cca"):
        whiten.fit(Pairs(others[:, :5], vectors, labels))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_processes_share_the_pass(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Each row is read by one of them, and all get one map; three blocks leave the fourth idle."""
    monkeypatch.setattr("mixbct.adapters.moments.CHUNK", 32)
    vectors = np.random.default_rng(6).normal(size=(90, 5)) * [1, 2, 3, 4, 5]
    labels = np.arange(90) % 7

    def work(world: World) -> tuple[list[int], list[np.ndarray | None]]:
        seen: list[int] = []

        def read(rows: np.ndarray) -> np.ndarray:
            seen.extend(rows.tolist())
            return vectors[rows]

        side = whitening(ReadRows(read, np.arange(90), 5), labels, 0.3, world)
        return seen, list(side.arrays)

    alone, found = work(World()), run_world(size, work)
    assert sorted(row for seen, _ in found for row in seen) == list(range(90))
    for _, arrays in found:
        for one, expected, first in zip(arrays, alone[1], found[0][1], strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-6)
            np.testing.assert_array_equal(one, first)
