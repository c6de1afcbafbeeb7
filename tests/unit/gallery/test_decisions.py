"""What hits mean: their false-accept rates, decisions, one ranking of several contracts."""

import json

import numpy as np
import pytest

from mixbct.errors import ContractError, FeatureError, GalleryError
from mixbct.gallery import Gallery
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.calibration import Calibration
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap


def calibration(low, high, pairs=10**6):
    """All of the impostor pairs score `low` at least, one in 10,000 `high`, none more than 0.99."""
    points = (low, high, 0.99, float(np.nextafter(np.float32(0.99), np.float32(1))))
    return Calibration(
        pairs=pairs, classes=9, scores=points, accepted=(pairs, pairs // 10**4, 1, 0)
    )


OWN, CROSS, BEFORE, BOTH = (
    calibration(*ends) for ends in ((-0.2, 0.2), (-0.4, 0.8), (-0.5, 0.9), (-0.1, 0.9))
)


@pytest.fixture
def edge(old, new):
    """An edge with a calibration of every pair, and a share for both queries."""
    return Edge(
        from_contract=new,
        to_contract=old,
        result_digest="0" * 64,
        threshold=CROSS.threshold(1e-3),
        far=1e-3,
        old_queries=0.25,
        calibrations={
            "new/old": CROSS,
            "new/new": OWN,
            "old/old": BEFORE,
            "new+old/old": BOTH,
        },
    )


@pytest.fixture
def mixed(gallery, old, new, vectors, edge):
    """A gallery of both contracts' rows, searched by the new model."""
    gallery.enrol([f"old {i}" for i in range(30)], ["a"] * 30, vectors(30, 1), old)
    gallery.switch(new, edge)
    gallery.enrol([f"new {i}" for i in range(30)], [None] * 30, vectors(30, 2), new)
    return gallery


def scores_of(vectors, queries):
    rows = {f"old {i}": v for i, v in enumerate(vectors(30, 1))}
    rows |= {f"new {i}": v for i, v in enumerate(vectors(30, 2))}
    return {key: queries @ row for key, row in rows.items()}


def test_every_hit_has_its_rate_and_whether_it_is_accepted(mixed, new, vectors):
    queries = vectors(20, 5)
    expected = scores_of(vectors, queries)
    for far in (None, 1e-2, 1e-4):
        found = mixed.search(queries, new, k=60, far=far)
        for query in range(len(queries)):
            for hit in found.of(query):
                known = OWN if hit.key.startswith("new") else CROSS
                score = expected[hit.key][query]
                assert hit.score == pytest.approx(score, abs=1e-6)
                assert hit.far == pytest.approx(float(known.rate(np.float32(hit.score))))
                assert hit.accepted == (hit.score > known.threshold(far or 1e-3))
                assert hit.accepted == (hit.far <= (far or 1e-3))
                assert (hit.label is None) == hit.key.startswith("new")


def test_rows_of_two_contracts_are_ranked_on_one_scale(mixed, new, vectors):
    queries = vectors(20, 5)
    scores = scores_of(vectors, queries)

    def place(key, query):
        own = key.startswith("new")
        begin, end = ((OWN if own else CROSS).threshold(far) for far in (1e-1, 3e-4))
        return (scores[key][query] - begin) / (end - begin)

    moved = 0
    for k in (60, 7):
        found = mixed.search(queries, new, k)
        for query in range(len(queries)):
            wanted = sorted(scores, key=lambda key, q=query: -place(key, q))[:k]
            keys = [hit.key for hit in found.of(query)]
            assert [place(key, query) for key in keys] == pytest.approx(
                [place(key, query) for key in wanted], abs=1e-5
            )
            moved += keys != sorted(scores, key=lambda key, q=query: -scores[key][q])[:k]
    assert moved > 20


def test_without_a_calibration_of_all_cosines_rank(gallery, old, new, vectors, edge):
    gallery.enrol([f"old {i}" for i in range(30)], ["a"] * 30, vectors(30, 1), old)
    gallery.switch(new, edge.model_copy(update={"calibrations": {"new/old": CROSS}}))
    gallery.enrol([f"new {i}" for i in range(30)], ["b"] * 30, vectors(30, 2), new)
    found = gallery.search(vectors(20, 5), new, 60)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    hits = found.of(0)
    assert {hit.accepted is None for hit in hits if hit.key.startswith("new")} == {True}
    assert {hit.far is None for hit in hits if hit.key.startswith("old")} == {False}
    with pytest.raises(GalleryError, match=r"new .* rows of new .* 0\.01, .* edge \(none\)"):
        gallery.search(vectors(1), new, far=1e-2)


def test_the_deployed_model_is_calibrated_before_and_after(mixed, old, vectors):
    mixed.rollback(leave_out=True)
    (hit, *_) = mixed.search(vectors(1, 5), old, 3).of(0)
    assert hit.far == pytest.approx(float(BEFORE.rate(np.float32(hit.score))))
    assert hit.accepted == (hit.score > BEFORE.threshold(1e-3))


def test_a_rate_that_the_pairs_do_not_support_is_refused(mixed, new, vectors):
    assert CROSS.least == pytest.approx(3e-5)
    with pytest.raises(GalleryError, match=r"1e-06, .*1,000,000 impostor pairs, for 3\.0"):
        mixed.search(vectors(1), new, far=1e-6)


@pytest.mark.parametrize("mapped", [False, True])
def test_both_queries_meet_where_the_old_rows_are(
    gallery, old, make_contract, vectors, edge, mapped
):
    """Old and new query, each through its own side, added by the edge's share."""
    rng = np.random.default_rng(3)
    new = make_contract("new", 12) if mapped else edge.from_contract
    sides = [rng.normal(size=(dim, 6)).astype(np.float32) for dim in (12, 8)] if mapped else []
    bridge = None
    if mapped:
        query, rows = (LinearMap.of(side) for side in sides)
        bridge = Bridge(kind="cca", source=new, target=old, query=query, gallery=rows)
    edge = edge.model_copy(update={"from_contract": new, "bridge": bridge})
    gallery.enrol([str(i) for i in range(30)], ["a"] * 30, vectors(30, 1), old)
    gallery.switch(new, edge)
    younger = rng.normal(size=(5, new.dim)).astype(np.float32)
    older = 3 * vectors(5, 8)  # any scale

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    stored = vectors(30, 1)
    sides = sides or [np.eye(8, dtype=np.float32)] * 2
    q = 0.25 * unit(unit(younger) @ sides[0]) + 0.75 * unit(unit(older) @ sides[1])
    expected = unit(q) @ unit(stored @ sides[1]).T
    for given in (old, None):
        found = gallery.search(younger, new, 30, old=(older, given))
        for query in range(5):
            for hit in found.of(query):
                assert hit.score == pytest.approx(expected[query, int(hit.key)], abs=1e-5)
                assert hit.far == pytest.approx(float(BOTH.rate(np.float32(hit.score))))
                assert hit.accepted == (hit.score > BOTH.threshold(1e-3))
    with pytest.raises(GalleryError, match="5 queries, but 4 by the old model"):
        gallery.search(younger, new, old=(older[:4], old))
    with pytest.raises(FeatureError, match="those of old"):
        gallery.search(younger, new, old=(older[:, :7], None))
    with pytest.raises(ContractError, match=r"lead to: old .*--split"):
        gallery.search(younger, new, old=(older, make_contract("older")))
    # an edge without a calibration of the mix gives no decision
    bare = edge.model_copy(update={"calibrations": {"new/old": CROSS}})
    gallery.switch(new, bare)
    hits = gallery.search(younger, new, old=(older, old)).of(0)
    assert {(hit.accepted, hit.far) for hit in hits} == {(None, None)}
    gallery.switch(new, bare.model_copy(update={"old_queries": None}))
    with pytest.raises(ContractError, match="lead to: none"):
        gallery.search(younger, new, old=(older, old))


def test_stored_items_search_for_others(mixed, new, vectors):
    own = mixed.vectors(["new 3", "new 1"])
    np.testing.assert_allclose(own, vectors(30, 2)[[3, 1]], atol=1e-6)
    assert mixed.search(own, new, 1).of(0)[0].key == "new 3"
    with pytest.raises(GalleryError, match="no item 'nobody'"):
        mixed.vectors(["new 3", "nobody"])
    with pytest.raises(ContractError, match="'old 3' was enrolled by another model"):
        mixed.vectors(["old 3"])


def test_a_contract_goes_by_its_name_or_id(mixed, old, new):
    assert mixed.contract() == new
    assert mixed.contract("old") == mixed.contract(old.id) == old
    with pytest.raises(ContractError, match=r"no contract 'other', but new \(.*old \("):
        mixed.contract("other")


def test_an_edge_of_an_earlier_version_stays_readable(mixed, tmp_path, edge):
    content = json.loads(edge.to_json())
    for later in ("calibrations", "old_queries"):
        del content[later]
    earlier = Edge.model_validate(content)
    assert earlier.calibrations == {}
    assert "calibrations" not in earlier.to_json()
    with Gallery.open(tmp_path) as opened:
        assert opened.status().edges[0].threshold == edge.threshold
