import numpy as np
import pytest

from mixbct.data.bank import normalise
from mixbct.evaluation.bootstrap import class_weights
from mixbct.evaluation.mixed import mixed_rows
from mixbct.evaluation.scores import Embeddings, Pair
from mixbct.workflows.bench.merged import rank_merged


def pair(dim: int, seed: int) -> Pair:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((7, dim))

    def side(n: int) -> Embeddings:
        labels = np.arange(n, dtype=np.int64) % 7
        return Embeddings(normalise(centres[labels] + rng.standard_normal((n, dim))), labels)

    return Pair(side(70), side(90))


def test_merged_figures_are_those_of_a_loop_over_queries() -> None:
    """The two models differ in dimension, which merging does not mind."""
    old, new = pair(8, 1), pair(12, 2)
    figures, drawn = rank_merged(old, new, 0.5, 3, 100)
    again = set(mixed_rows(90, 0.5, 3).tolist())
    precisions, firsts = [], []
    for q in range(70):
        lists = []
        for one, wanted in ((old, False), (new, True)):
            items = [i for i in range(90) if (i in again) is wanted]
            scores = {i: float(one.gallery.features[i] @ one.query.features[q]) for i in items}
            lists.append(sorted(items, key=lambda i, s=scores: -s[i]))
        merged = [i for k in range(90) for one in lists for i in one[k : k + 1]]
        right = [old.gallery.labels[i] == old.query.labels[q] for i in merged]
        hits = np.flatnonzero(right)
        precisions.append(np.mean([(k + 1) / (place + 1) for k, place in enumerate(hits)]))
        firsts.append(float(right[0]))
    assert figures["mAP"].value == pytest.approx(np.mean(precisions))
    assert figures["rank-1"].value == pytest.approx(np.mean(firsts))
    weights = class_weights(7, 100, 3)
    by_class = np.array([np.mean(np.array(precisions)[old.query.labels == c]) for c in range(7)])
    np.testing.assert_allclose(drawn["mAP"], weights @ by_class / 7)
