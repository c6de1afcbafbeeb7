"""A model's own way to old rows beside a fitted one, as one bridge."""

import numpy as np
import pytest

from mixbct.adapters import whiten
from mixbct.adapters.moments import Pairs
from mixbct.data.bank import normalise
from mixbct.evaluation.scores import Embeddings
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.contract import Contract
from mixbct.workflows.across import across
from mixbct.workflows.adapt import PairedItems, beside_own, fit_bridge

LABELS = np.repeat(np.arange(30), 10)


@pytest.mark.parametrize("whitened", [False, True])
def test_the_cosine_is_about_the_mean_of_both(whitened: bool) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, 8))
    old, new = (
        normalise(centres[LABELS] + noise * rng.standard_normal((300, 8))) for noise in (0.8, 0.4)
    )
    models = tuple(
        Contract(name=name, weights=name, preprocessing=None, dim=8) for name in ("new", "old")
    )
    items = PairedItems(models, Pairs(new, old, LABELS), (), "here", "digest")
    own = None
    if whitened:
        # as a model carries it that was trained against whitened rows
        gallery = whiten.fit(Pairs(new, old, LABELS))[1]
        own = Bridge(kind="whiten", source=models[0], target=models[1], gallery=gallery)
    fitted = fit_bridge("whiten_cca", items, 0.1)
    both = beside_own(own, fitted, items)
    assert both.kind == ("whiten + whiten_cca" if whitened else "identity + whiten_cca")
    assert (both.source, both.target, both.fit) == (*models, fitted.fit)

    def scores(bridge: Bridge | None) -> np.ndarray:
        ways = [bridge] if bridge else []
        met = across(ways, Embeddings(new, LABELS), Embeddings(old, LABELS))
        return met.query.features @ met.gallery.features.T

    mean = (scores(own) + scores(fitted)) / 2
    assert np.abs(scores(both) - mean).mean() < 0.05
    assert np.corrcoef(scores(both).ravel(), mean.ravel())[0, 1] > 0.98
