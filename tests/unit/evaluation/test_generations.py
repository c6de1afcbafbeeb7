"""The matrix of generations against figures that are computed one by one, with scikit-learn."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mixbct.data.bank import normalise
from mixbct.errors import DataError, FeatureError
from mixbct.evaluation.scores import Embeddings, Pair
from mixbct.evaluation.upgrade import GenerationFigures, evaluate_generations
from mixbct.schemas.linear_map import LinearMap

CLASSES = 12
DIMS = (6, 16, 10)
RNG = np.random.default_rng(8)
DOWN = (
    RNG.normal(size=(16, 6)) / 8 + np.eye(16, 6),
    RNG.normal(size=(10, 16)) / 8 + np.eye(10, 16),
)
OFFSET = RNG.normal(size=16) / 20
MAPS = (LinearMap.of(DOWN[0]), LinearMap.of(DOWN[1], OFFSET))


def embed(dim: int, noise: float, seed: int) -> Pair:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(CLASSES, 16))[:, :dim]

    def side(n: int) -> Embeddings:
        labels = np.arange(n, dtype=np.int64) % CLASSES
        return Embeddings(normalise(centres[labels] + noise * rng.normal(size=(n, dim))), labels)

    return Pair(side(48), side(84))


VERSIONS = [
    embed(dim, noise, seed)
    for dim, noise, seed in zip(DIMS, (1.6, 1.1, 0.9), (2, 3, 4), strict=True)
]


def behind(query: int, gallery: int) -> Pair:
    queries = VERSIONS[query].query.features
    for step in range(query, gallery, -1):
        queries = normalise(MAPS[step - 1].apply(queries))
    return Pair(Embeddings(queries, VERSIONS[query].query.labels), VERSIONS[gallery].gallery)


def sides(versions: list[Pair], behind: Callable[[int, int], Pair]) -> dict[tuple[int, int], Pair]:
    places = [(i, j) for i in range(len(versions)) for j in range(i, -1, -1)]
    return {(i, j): behind(i, j) if i > j else versions[i] for i, j in places}


@pytest.fixture(scope="module")
def figures() -> GenerationFigures:
    return evaluate_generations(sides(VERSIONS, behind), seed=5, replicates=60)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt((vector**2).sum())


def slow(query: int, gallery: int) -> dict[str, float]:
    """Return the figures of one pair, from one score after another."""
    precisions, hits, genuine, impostor = [], [], [], []
    items = VERSIONS[gallery].gallery
    for q, label in zip(VERSIONS[query].query.features, VERSIONS[query].query.labels, strict=True):
        vector = q.astype(np.float64)
        if query == 2 and gallery < 2:
            vector = unit(vector @ DOWN[1] + OFFSET)
        if query >= 1 and gallery < 1:
            vector = unit(vector @ DOWN[0])
        scores = items.features @ vector
        same = items.labels == label
        precisions.append(average_precision_score(same, scores))
        hits.append(items.labels[np.argmax(scores)] == label)
        genuine += scores[same].tolist()
        impostor += scores[~same].tolist()
    # the lowest threshold at which no more than one in a thousand impostors is accepted
    limit = sorted(impostor, reverse=True)[int(1e-3 * len(impostor))]
    return {
        "mAP": float(np.mean(precisions)),
        "rank-1": float(np.mean(hits)),
        "TAR@1e-3": float(np.mean(np.array(genuine) > limit)),
    }


def test_every_figure_is_that_of_a_slow_computation(figures: GenerationFigures) -> None:
    places = [(p.query, p.gallery) for p in figures.pairs]
    assert places == [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)]
    sure = {(q, g): slow(q - 1, g - 1) for q, g in places}
    for pair in figures.pairs:
        expected = sure[pair.query, pair.gallery]
        assert {n: f.value for n, f in pair.metrics.items()} == pytest.approx(expected, abs=1e-5)
        if pair.query == pair.gallery:
            assert pair.gains == {}
            continue
        base = sure[pair.gallery, pair.gallery]
        for name, gain in pair.gains.items():
            assert gain.value == pytest.approx(expected[name] - base[name], abs=1e-5)
            assert gain.low <= gain.value <= gain.high
            assert pair.compatible(name) == (expected[name] > base[name])


def test_the_summary_is_what_its_fields_say(figures: GenerationFigures) -> None:
    for name, summary in figures.summary.items():
        values = {(p.query, p.gallery): p.metrics[name].value for p in figures.pairs}
        across = [(q, g) for q, g in values if q > g]
        wins = [values[q, g] > values[g, g] for q, g in across]
        assert summary.compatible == pytest.approx(sum(wins) / 3)
        sure = [p.gains[name].low > 0 for p in figures.pairs if p.gains]
        assert summary.surely_compatible == pytest.approx(sum(sure) / 3)
        assert summary.mean_cross.value == pytest.approx(np.mean([values[p] for p in across]))
        assert summary.mean.value == pytest.approx(np.mean([*values.values()]))
        assert summary.mean.low < summary.mean.value < summary.mean.high
    assert 0 < figures.summary["mAP"].compatible < 1  # the fixture holds both kinds


def test_differences_are_paired(figures: GenerationFigures) -> None:
    by_place = {(p.query, p.gallery): p for p in figures.pairs}
    pair, base = by_place[3, 2], by_place[2, 2]
    width = pair.gains["mAP"].high - pair.gains["mAP"].low
    apart = [p.metrics["mAP"].high - p.metrics["mAP"].low for p in (pair, base)]
    assert width < sum(apart)


def test_versions_of_one_dimension_need_no_map() -> None:
    same = [embed(16, noise, 7) for noise in (1.5, 0.5)]
    found = evaluate_generations(
        sides(same, lambda i, j: Pair(same[i].query, same[j].gallery)), seed=0, replicates=20
    )
    assert found.pairs[1].gains["mAP"].low > 0
    assert found.summary["mAP"].compatible == 1


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(DataError, match="at least 2 versions to compare, not 1"):
        evaluate_generations(sides(VERSIONS[:1], behind), seed=0)
    with pytest.raises(
        FeatureError, match=r"version 2 of dimension 16 .* version 1 of dimension 6:"
    ):
        evaluate_generations(
            sides(VERSIONS, lambda i, j: Pair(VERSIONS[i].query, VERSIONS[j].gallery)), seed=0
        )
    fewer = Pair(VERSIONS[1].query.take(np.arange(9)), VERSIONS[1].gallery)
    with pytest.raises(DataError, match=r"query items of version 2 \(9 rows\) are not those"):
        evaluate_generations(sides([VERSIONS[0], fewer], behind), seed=0)
