"""The table of mixed galleries, on made-up models whose scores lie on two scales."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from mixbct.data.bank import normalise
from mixbct.evaluation.scores import Embeddings, Pair

ROOT = Path(__file__).parents[3]


def test_one_scale_helps_where_cosines_do_not_mean_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("benchmarks.mixed_life")
    rng = np.random.default_rng(0)
    labels = np.arange(480) % 40
    centres = rng.normal(size=(40, 12))

    def side(noise: float, cone: float) -> Embeddings:
        features = centres[labels] + noise * rng.normal(size=(480, 12))
        return Embeddings(normalise(np.c_[features, np.full(480, cone)]), labels)

    # rows of the old model lie in a narrow cone: whatever they are, their cosines are high
    new, cross = (Pair(side(0.8, cone), side(0.8, cone)) for cone in (0.0, 4.0))
    found = module.mixed_life(new, cross, replicates=100)
    assert list(found) == [0.1, 0.5, 0.9]
    for metrics in found.values():
        assert list(metrics) == ["mAP", "rank-1", "TAR@1e-3", "TAR@1e-4"]
        assert metrics["mAP"][1].low > 0
    assert found[0.5]["mAP"][1].value > 0.05
