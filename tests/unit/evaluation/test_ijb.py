"""Templates, pair scores and 1:N figures against slow loops."""

import numpy as np
import pytest

from mixbct.data.ijb import Subjects
from mixbct.errors import DataError, FeatureError
from mixbct.evaluation import templates as templates_module
from mixbct.evaluation.protocols import identify, verification
from mixbct.evaluation.scores import Embeddings
from mixbct.evaluation.templates import Templates, pool_templates, template_scores

FPIRS = (1e-4, 0.02, 0.1, 0.5, 1.0)


def slow_pool(
    features: np.ndarray, templates: np.ndarray, media: np.ndarray, scores: np.ndarray
) -> dict[int, np.ndarray]:
    found = {}
    for template in set(templates.tolist()):
        total = np.zeros(features.shape[1])
        for medium in set(media[templates == template].tolist()):
            rows = np.flatnonzero((templates == template) & (media == medium))
            mean = np.mean([scores[r] * features[r].astype(np.float64) for r in rows], axis=0)
            total += mean
        found[template] = total / np.linalg.norm(total)
    return found


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_templates_against_a_slow_loop(dtype: type) -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((200, 12)).astype(dtype)
    features.flags.writeable = False  # as a memory map
    templates = rng.choice([3, 4, 70, 5], 200)
    media = rng.integers(0, 9, 200)  # the same media in several templates
    scores = rng.random(200).astype(np.float32)
    found = pool_templates(features, templates, media, scores)
    slow = slow_pool(features, templates, media, scores)
    assert found.ids.tolist() == sorted(slow)
    np.testing.assert_allclose(found.features, [slow[i] for i in sorted(slow)], atol=2e-6)
    alike = pool_templates(features, templates, media)
    slow = slow_pool(features, templates, media, np.ones(200))
    np.testing.assert_allclose(alike.features, [slow[i] for i in sorted(slow)], atol=2e-6)


def random_templates(ids: np.ndarray, seed: int, dim: int = 16) -> Templates:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((len(ids), dim)).astype(np.float32)
    return Templates(ids, features / np.linalg.norm(features, axis=1, keepdims=True))


@pytest.mark.parametrize("offset", [0, 10**12])
def test_pair_scores_over_many_blocks(offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.arange(0, 100, 2) + offset
    gallery, probe = random_templates(ids, 0), random_templates(ids, 1)
    rng = np.random.default_rng(2)
    # not every template occurs, and some pairs occur twice
    pairs = np.column_stack([rng.choice(ids[:35], 999), rng.choice(ids[10:], 999)])
    monkeypatch.setattr(templates_module, "_BLOCK_BYTES", 4 * 40 * 3)
    found = template_scores(gallery, probe, pairs)
    slow = [
        gallery.features[(a - offset) // 2] @ probe.features[(b - offset) // 2] for a, b in pairs
    ]
    np.testing.assert_allclose(found, slow, atol=1e-6)
    for stray in (1 + offset, 200 + offset, -1):
        with pytest.raises(
            DataError, match=f"1 templates have no image, the first of them {stray}"
        ):
            template_scores(gallery, probe, np.array([[ids[0], stray]]))


def slow_identify(probe: Embeddings, gallery: Embeddings) -> tuple[list, list]:
    """Return (mate's score, its rank) of each mated probe, and the others' best scores."""
    mated, strangers = [], []
    for feature, subject in zip(probe.features, probe.labels, strict=True):
        scores = [float(np.dot(feature, g)) for g in gallery.features]
        own = [s for s, label in zip(scores, gallery.labels, strict=True) if label == subject]
        others = [s for s, label in zip(scores, gallery.labels, strict=True) if label != subject]
        if own:
            mated.append((max(own), 1 + sum(s >= max(own) for s in others)))
        else:
            strangers.append(max(others))
    return mated, strangers


def slow_tpir(mated: list, strangers: list, fpir: float) -> float:
    """Try every threshold that could matter and keep the best rate."""
    best = 0.0
    for t in [-9.0, *strangers, *(s for s, _ in mated)]:
        if np.mean([s > t for s in strangers]) <= fpir:
            best = max(best, float(np.mean([s > t and rank == 1 for s, rank in mated])))
    return best


def test_identification_against_a_slow_loop() -> None:
    rng = np.random.default_rng(3)
    centres = rng.choice([-1.0, 1.0], (40, 16))

    def side(labels: np.ndarray) -> Embeddings:
        # sign vectors: products are exact, and many tie
        flips = np.where(rng.random((len(labels), 16)) < 0.25, -1, 1)
        return Embeddings((centres[labels] * flips / 4).astype(np.float32), labels)

    galleries = {"G1": side(np.arange(15)), "G2": side(np.arange(15, 31))}
    probe = side(rng.integers(0, 40, 300))
    found = identify(probe, galleries, FPIRS)
    per_gallery, ranks = [], []
    for judged, gallery in zip(found.galleries, galleries.values(), strict=True):
        mated, strangers = slow_identify(probe, gallery)
        assert (judged.mated_probes, judged.non_mated_probes) == (len(mated), len(strangers))
        rates = [slow_tpir(mated, strangers, fpir) for fpir in FPIRS]
        assert [p.rate for p in judged.points] == rates
        for point in judged.points:
            assert point.measured == np.mean([s > point.threshold for s in strangers])
        assert judged.points[-1].rate == judged.ranks["rank-1"]
        per_gallery.append(rates)
        ranks += [rank for _, rank in mated]
    assert 0 < per_gallery[0][2] < per_gallery[0][-1] < 1
    np.testing.assert_allclose(list(found.tpir.values()), np.mean(per_gallery, axis=0), rtol=1e-12)
    assert list(found.tpir)[-1] == "TPIR@1e0"
    assert found.ranks == {f"rank-{k}": np.mean(np.array(ranks) <= k) for k in (1, 5, 10)}


def test_the_old_model_is_on_the_gallery_side() -> None:
    ids = np.arange(12)
    old, new = random_templates(ids, 0), random_templates(ids, 1)
    pairs = np.array([[a, b] for a in range(4) for b in range(4, 12)])
    same = pairs[:, 0] == pairs[:, 1] % 4
    slow = np.array([old.features[a] @ new.features[b] for a, b in pairs])
    scores = template_scores(old, new, pairs)
    found = verification(scores[same], scores[~same], (0.25,))
    limit = np.sort(slow[~same])[::-1][int(0.25 * (~same).sum())]
    assert found.points[0].rate == np.mean(slow[same] > limit + 1e-6)
    galleries = {"G1": Subjects(ids[:2], ids[:2]), "G2": Subjects(ids[2:4], ids[2:4])}
    probes = Subjects(ids[4:], ids[4:] % 4)
    searched = identify(new.of(probes), {n: old.of(g) for n, g in galleries.items()})
    sides = {n: Embeddings(old.features[g.templates], g.subjects) for n, g in galleries.items()}
    assert searched == identify(Embeddings(new.features[4:], ids[4:] % 4), sides)
    assert searched != identify(new.of(probes), {n: new.of(g) for n, g in galleries.items()})


def test_what_cannot_be_judged() -> None:
    ids = np.arange(4)
    with pytest.raises(FeatureError, match=r"dimension 8 .* dimension 16"):
        template_scores(random_templates(ids, 0), random_templates(ids, 0, 8), np.array([[0, 1]]))
    with pytest.raises(FeatureError, match="template 7"):
        pool_templates(np.zeros((2, 4), np.float32), np.array([7, 7]), np.array([0, 1]))
    with pytest.raises(FeatureError, match="2 features with 1 template and 2 media"):
        pool_templates(np.ones((2, 4), np.float32), np.array([7]), np.array([0, 1]))
    for scores in ([1, 1, -0.5, 1], [1, 1, np.nan, 1], [1, 1, 0, 0]):
        with pytest.raises(DataError, match=r"score is negative .* all of a template are 0 \(.*9"):
            pool_templates(
                np.ones((4, 4), np.float32), ids // 2 + 8, ids, np.array(scores, np.float32)
            )
    side = random_templates(ids, 0)
    with pytest.raises(DataError, match="there is no template to compare"):
        side.rows(ids[:0])
    with pytest.raises(DataError, match="4 of 4 probes have their subject in gallery G1"):
        identify(side.of(Subjects(ids, ids)), {"G1": side.of(Subjects(ids, ids))})
