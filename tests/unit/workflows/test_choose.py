"""What is chosen between made-up spaces in which the best is known."""

import numpy as np
import pytest

from mixbct.adapters.moments import Pairs
from mixbct.data.bank import normalise
from mixbct.errors import FeatureError
from mixbct.workflows import choose as module
from mixbct.workflows.choose import DEPLOYED, choose, choose_share, told_apart

CLASSES, EACH = 60, 6
LABELS = np.arange(CLASSES * EACH) % CLASSES


def model(seed: int, noise: float, dim: int = 12, cone: float = 0.0) -> np.ndarray:
    """Return items around their classes, noisy in some directions, as one model sees them."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((CLASSES, 12))[:, :dim]
    spread = noise * np.linspace(0.2, 2, dim)
    return normalise(centres[LABELS] + spread * rng.standard_normal((len(LABELS), dim)) + cone)


def kinds(found: tuple) -> dict[str, float]:
    return {
        f"{c.kind} {c.shrinkage or ''}".strip(): c.mean_average_precision + c.true_accept_rate
        for c in found
    }


def test_models_of_one_space_are_compared_in_it() -> None:
    best, tried = choose(Pairs(model(2, 0.2), model(3, 0.6), LABELS))
    assert "identity" in kinds(tried)
    assert kinds(tried)["identity"] > 1
    # the noise of the old one is uneven, and whitening knows it
    assert best.kind == "whiten"


def test_strangers_need_a_map() -> None:
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((12, 12)))[0]
    best, tried = choose(Pairs(normalise(model(2, 0.2) @ turn), model(3, 0.6), LABELS))
    scores = kinds(tried)
    assert best.kind in ("ridge", "cca", "ridge_cca", "whiten_cca")
    assert scores["identity"] < max(scores.values()) - 0.5
    assert scores["whiten 0.3"] < max(scores.values()) - 0.5
    top = max((s, k) for k, s in scores.items() if not k.startswith(DEPLOYED))[1]
    assert top.split()[0] == best.kind


@pytest.mark.parametrize("labelled", [True, False])
def test_other_dimensions_leave_out_what_cannot_be(labelled: bool) -> None:
    best, tried = choose(Pairs(model(2, 0.2, 12), model(3, 0.4, 7), LABELS if labelled else None))
    assert {c.kind for c in tried} == {"ridge", "cca", "ridge_cca", "whiten_cca", DEPLOYED}
    assert best.kind != DEPLOYED
    assert all(0 <= c.mean_average_precision <= 1 for c in tried)


@pytest.mark.parametrize(("new", "old", "shares"), [(0.3, 1.5, (0.7, 0.8)), (1.5, 0.3, (0.3,))])
def test_the_better_query_has_the_greater_share(new, old, shares) -> None:
    sides = model(2, new), model(3, old)
    assert choose_share((None, None), Pairs(*sides, LABELS)) in shares
    with pytest.raises(FeatureError, match="too few classes to choose a share by"):
        choose_share((None, None), Pairs(*sides, None))


def test_a_choice_is_a_pure_function() -> None:
    pairs = Pairs(model(2, 0.2), model(3, 0.6), LABELS)
    assert choose(pairs) == choose(pairs)
    assert choose(pairs)[1] != choose(pairs, seed=1)[1]


def test_no_class_is_judged_by_what_it_was_fitted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, sizes = [], set()
    fit = module.fit_maps

    def note(kind, pairs, shrinkage=None):
        seen.append(np.unique(pairs.labels))
        return fit(kind, pairs, shrinkage)

    compare = module.compare

    def judged(query, gallery, **more):
        if seen:
            sizes.add(len(seen[-1]))
            assert not np.intersect1d(seen.pop(), np.r_[query.labels, gallery.labels]).size
        return compare(query, gallery, **more)

    monkeypatch.setattr(module, "fit_maps", note)
    monkeypatch.setattr(module, "compare", judged)
    choose(Pairs(model(2, 0.2), model(3, 0.6), LABELS))
    assert sizes == {2 * CLASSES // 3}


def test_no_more_items_than_needed_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 120)
    rows, folds = module._folds(LABELS, 0)
    assert 100 < len(rows) <= 120
    assert set(folds) == {0, 1, 2}
    best, _ = choose(Pairs(model(2, 0.2), model(3, 0.6), None))
    assert best.kind


def test_where_classes_cannot_be_told() -> None:
    assert told_apart(LABELS) is LABELS
    for labels in (np.zeros(40, np.int64), np.arange(40), np.arange(40) // 2 % 5):
        assert told_apart(labels) is None
    pair = module._neighbours(model(2, 0.05))
    labels, counts = np.unique(pair, return_counts=True)
    assert set(counts) == {1, 2}
    own = [LABELS[pair == label] for label in labels[counts == 2]]
    assert all(len(set(each)) == 1 for each in own)


def test_too_little_to_choose_by_is_named() -> None:
    rows = model(2, 0.2)[:8]
    with pytest.raises(FeatureError, match=r"8 items are too few to choose .* name a kind: proc"):
        choose(Pairs(rows, rows, None))
    same = np.tile(rows[:1], (60, 1))
    with pytest.raises(FeatureError, match=r"no kind of bridge can be fitted|too few to choose"):
        choose(Pairs(same, same[:, :5].copy(), None))
