import numpy as np
import pytest
import torch
from processes import run_world

from mixbct.data.bank import normalise
from mixbct.distributed import World
from mixbct.features import prototypes as module
from mixbct.features.prototypes import class_means, class_stats, prototypes

CLASSES = 7
RNG = np.random.default_rng(0)
# class 5 has no feature, class 6 one, class 4 three; one row in eight is of no training class
LABELS = RNG.permutation(
    np.array([0] * 20 + [1] * 9 + [2] * 8 + [3] * 30 + [4] * 3 + [6] + [-1] * 9)
)
RAW = RNG.normal(size=(CLASSES + 1, 5))[LABELS] + 0.4 * RNG.standard_t(2, size=(len(LABELS), 5))


def read(rows: np.ndarray) -> np.ndarray:
    return normalise(RAW[rows].astype(np.float16))


@pytest.fixture(autouse=True, params=[8192, 7])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", request.param)


def test_means_and_prototypes_equal_a_loop() -> None:
    means, counts = class_means(read, LABELS, CLASSES)
    directions = prototypes(means, counts)
    for label in range(CLASSES):
        rows = [read(np.array([i]))[0] for i in range(len(LABELS)) if LABELS[i] == label]
        assert counts[label] == len(rows)
        assert directions.known[label] == bool(rows)
        mean = np.mean(rows, axis=0, dtype=np.float64) if rows else np.zeros(5)
        np.testing.assert_allclose(means[label], mean, atol=1e-6)
        unit = mean / np.linalg.norm(mean) if rows else mean
        np.testing.assert_allclose(directions.values[label], unit, atol=1e-6)


def test_radii_and_variance_equal_a_loop() -> None:
    stats = class_stats(read, LABELS, *class_means(read, LABELS, CLASSES))
    squares, cut = [], 0
    for label in range(CLASSES):
        rows = read(np.flatnonzero(label == LABELS))
        apart = sorted(np.linalg.norm(rows - rows.mean(axis=0), axis=1)) if len(rows) else [0.0]
        squares += [d * d for d in apart if len(rows)]
        kept = apart
        if len(apart) >= 4:
            low, high = apart[len(apart) // 4], apart[3 * len(apart) // 4]
            kept = [d for d in apart if d <= high + 1.5 * (high - low)]
        cut += len(apart) - len(kept)
        assert stats.radii[label] == pytest.approx(max(kept), abs=1e-6)
    assert cut > 0
    assert stats.variance == pytest.approx(np.mean(squares) / 5, rel=1e-5)


@pytest.mark.parametrize("size", [2, 3, 9])
def test_processes_share_the_classes_out(size: int) -> None:
    """Each reads the rows of its own alone, and has all the same numbers."""
    asked: list[np.ndarray] = []

    def noted(rows: np.ndarray) -> np.ndarray:
        asked.append(rows)
        return read(rows)

    def work(world: World) -> tuple[list[np.ndarray], float, np.ndarray]:
        means, counts = class_means(noted, LABELS, CLASSES, world)
        stats = class_stats(read, LABELS, means, counts, world)
        arrays = [each.numpy() for each in (stats.means, stats.counts, stats.radii)]
        return arrays, stats.variance, np.concatenate(asked[1:] or asked)

    alone = class_stats(read, LABELS, *class_means(read, LABELS, CLASSES))
    found = run_world(size, work)
    for arrays, variance, _ in found:
        for one, expected in zip(arrays, (alone.means, alone.counts, alone.radii), strict=True):
            np.testing.assert_array_equal(one, expected)
        assert variance == pytest.approx(alone.variance, rel=1e-14)
    if size < CLASSES:
        seen = np.concatenate([rows for *_, rows in found])
        np.testing.assert_array_equal(np.sort(seen), np.flatnonzero(LABELS >= 0))


def test_features_that_cancel_out_give_no_direction() -> None:
    means = torch.tensor([[1e-9, 0.0], [0.5, 0.0]])
    directions = prototypes(means, torch.tensor([2, 2]))
    assert directions.known.tolist() == [False, True]
    assert directions.values.tolist() == [[0.0, 0.0], [1.0, 0.0]]
