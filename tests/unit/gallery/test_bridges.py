"""Search across edges that hold a bridge."""

import json

import numpy as np
import pytest

from mixbct.data.bank import normalise
from mixbct.errors import ContractError, FeatureError
from mixbct.gallery import Gallery
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap

RNG = np.random.default_rng(3)
MATRIX, OFFSET = RNG.normal(size=(12, 8)), RNG.normal(size=8) / 4


@pytest.fixture
def wide(make_contract):
    return make_contract("wide", dim=12)


def rows(n, dim, seed):
    return normalise(np.random.default_rng(seed).standard_normal((n, dim)))


def edge_with(edge, query, gallery=None):
    bridge = Bridge(
        kind="test",
        source=edge.from_contract,
        target=edge.to_contract,
        query=query,
        gallery=gallery,
    )
    return edge.model_copy(update={"bridge": bridge})


@pytest.mark.parametrize("offset", [None, OFFSET])
def test_mixed_rows_are_each_scored_in_their_own_space(gallery, old, wide, make_edge, offset):
    stored, enrolled, queries = rows(40, 8, 1), rows(30, 12, 2), rows(9, 12, 3)
    names = [f"o{i}" for i in range(40)]
    gallery.enrol(names, names, stored, old)
    before = gallery.vectors_digest()
    edge = make_edge(wide, old, threshold=0.3)
    gallery.switch(wide, edge_with(edge, LinearMap.of(MATRIX, offset)))
    assert gallery.vectors_digest() == before
    more = [f"n{i}" for i in range(30)]
    gallery.enrol(more, more, enrolled, wide)
    hits = gallery.search(5 * queries, wide, k=70)

    for q in range(9):
        mapped = queries[q] @ MATRIX + (0 if offset is None else offset)
        mapped = mapped / np.sqrt((mapped**2).sum())
        scores = {name: float(mapped @ row) for name, row in zip(names, stored, strict=True)}
        scores |= {name: float(queries[q] @ row) for name, row in zip(more, enrolled, strict=True)}
        found = hits.of(q)
        assert [hit.key for hit in found] == sorted(scores, key=scores.get, reverse=True)
        for hit in found:
            assert hit.score == pytest.approx(scores[hit.key], abs=1e-5)
            assert hit.accepted == (hit.score > 0.3 if hit.key[0] == "o" else None)


def test_the_map_is_kept_with_the_gallery(tmp_path, old, wide, make_edge):
    edge = edge_with(make_edge(wide, old), LinearMap.of(MATRIX))
    stored, queries = rows(6, 8, 1), rows(2, 12, 2)
    with Gallery.create(tmp_path / "g", old) as first:
        first.enrol(list("abcdef"), list("abcdef"), stored, old)
        first.switch(wide, edge)
        expected = first.search(queries, wide)
    with Gallery.open(tmp_path / "g") as again:
        (shown,) = again.status().edges
        assert (shown.to_contract, shown.bridge) == (old, str(edge.bridge))
        assert edge.bridge.query.model_dump(mode="json")["matrix"] not in again.status().to_json()
        found = again.search(queries, wide)
        np.testing.assert_array_equal(found.scores, expected.scores)


SIDES = {
    "both": (LinearMap.of(MATRIX[:, :5], OFFSET[:5]), LinearMap.of(MATRIX[:8, 3:8], OFFSET[3:])),
    "rows": (None, LinearMap.of(MATRIX.T, MATRIX[:, 0])),
}


def brute_force(sides, queries, stored, enrolled):
    """Return all scores, old rows first: each in its own space, in float64."""

    def mapped(side, vectors):
        matrix, offset = (np.eye(vectors.shape[1]), None) if side is None else side.arrays
        found = vectors.astype(np.float64) @ matrix + (0 if offset is None else offset)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    across = mapped(sides[0], queries) @ mapped(sides[1], stored).T
    return np.hstack([across, queries.astype(np.float64) @ enrolled.T])


@pytest.mark.parametrize("which", SIDES)
def test_rows_are_compared_mapped_and_never_changed(tmp_path, old, wide, make_edge, which):
    sides = SIDES[which]
    stored, more, enrolled, queries = (
        rows(n, dim, seed) for n, dim, seed in ((70, 8, 1), (20, 8, 4), (30, 12, 2), (9, 12, 3))
    )
    names = [f"o{i:02}" for i in range(90)]
    news = [f"n{i}" for i in range(30)]

    def check(gallery, count):
        scores = brute_force(sides, queries, np.vstack([stored, more])[:count], enrolled)
        hits = gallery.search(queries, wide, k=200)
        keys = names[:count] + news
        for q, expected in enumerate(scores):
            found = hits.of(q)
            assert {hit.key for hit in found} == set(keys)
            np.testing.assert_allclose(
                [hit.score for hit in found],
                [expected[keys.index(hit.key)] for hit in found],
                atol=1e-5,
            )
            assert [hit.score for hit in found] == sorted(
                (hit.score for hit in found), reverse=True
            )

    edge = edge_with(make_edge(wide, old), *sides)
    with Gallery.create(tmp_path / "g", old) as gallery:
        gallery.enrol(names[:70], names[:70], stored, old)
        before = gallery.vectors_digest()
        gallery.switch(wide, edge)
        gallery.enrol(news, news, enrolled, wide)
        check(gallery, 70)
    # from the cache file, with rows of the old model that came after it, as a mixed fleet adds them
    with Gallery.open(tmp_path / "g") as gallery:
        assert [r.cached_rows for r in gallery.status().contracts] == [
            {8: 70, 12: 30}[r.contract.dim] for r in gallery.status().contracts
        ]
        check(gallery, 70)
        gallery.enrol(names[70:], names[70:], more, old)
        check(gallery, 90)
        gallery.enrol(names[:70], names[:70], stored, old, replace=True)
        check(gallery, 90)
        assert before != gallery.vectors_digest()  # rows came, and have ids of their own


def test_a_switch_there_and_back_leaves_every_bit(tmp_path, old, new, make_edge, vectors):
    turn = LinearMap.of(np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0], OFFSET)
    keys = [f"k{i}" for i in range(40)]
    with Gallery.create(tmp_path / "g", old) as gallery:
        gallery.enrol(keys, keys, vectors(40), old)
        digest, first = gallery.vectors_digest(), gallery.search(vectors(6, seed=5), old)
        for query, side in ((None, turn), (turn, turn), (turn, None), (None, None)):
            gallery.switch(new, edge_with(make_edge(new, old), query, side))
            across = gallery.search(vectors(6, seed=5), new)
            expected = brute_force((query, side), vectors(6, seed=5), vectors(40), np.empty((0, 8)))
            np.testing.assert_allclose(across.scores[:, 0], expected.max(axis=1), atol=1e-5)
            assert gallery.vectors_digest() == digest
            # what is searched now, and what the way back would need
            assert len(list((tmp_path / "g").glob("index-*"))) <= 2
        gallery.switch(old)
        again = gallery.search(vectors(6, seed=5), old)
    np.testing.assert_array_equal(again.scores, first.scores)
    np.testing.assert_array_equal(again.ids, first.ids)


def test_an_open_gallery_follows_another_process(tmp_path, old, new, make_edge, vectors):
    """The items are the same and the state has not moved: the bridge alone tells."""
    turns = [
        LinearMap.of(np.linalg.qr(np.random.default_rng(s).standard_normal((8, 8)))[0], OFFSET)
        for s in range(2)
    ]
    queries, keys = vectors(6, seed=5), [f"k{i}" for i in range(40)]
    with Gallery.create(tmp_path / "g", old) as one:
        one.enrol(keys, keys, vectors(40), old)
        for side in (*turns, None, turns[0]):
            with Gallery.open(tmp_path / "g") as other:
                other.switch(new, edge_with(make_edge(new, old), None, side))
            expected = brute_force((None, side), queries, vectors(40), np.empty((0, 8)))
            found = one.search(queries, new)
            np.testing.assert_allclose(found.scores[:, 0], expected.max(axis=1), atol=1e-5)


def test_a_row_that_the_map_sends_to_zero_is_named(gallery, old, new, make_edge, vectors):
    gallery.enrol(list("abc"), list("abc"), np.eye(8, dtype=np.float32)[:3], old)
    matrix = np.eye(8)
    matrix[1] = 0
    gallery.switch(new, edge_with(make_edge(new, old), None, LinearMap.of(matrix)))
    with pytest.raises(FeatureError, match="zero vectors: 1 of 3"):
        gallery.search(vectors(2), new)


def test_an_edge_between_equal_dimensions_may_hold_a_map(gallery, old, new, make_edge, vectors):
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    keys = list("abcde")
    gallery.enrol(keys, keys, vectors(5), old)
    gallery.switch(new, edge_with(make_edge(new, old), LinearMap.of(rotation.T)))
    hits = gallery.search(vectors(5) @ rotation, new, k=1)
    assert [hits.of(i)[0].key for i in range(5)] == keys
    np.testing.assert_allclose(hits.scores, 1, atol=1e-5)


def test_bridges_that_do_not_fit_are_refused(gallery, old, new, wide, make_edge, vectors):
    gallery.enrol(["a"], ["a"], vectors(1), old)
    for edge in (make_edge(wide, old), make_edge(new, old)):
        for other in (
            edge_with(make_edge(wide, new), LinearMap.of(MATRIX)),
            edge_with(make_edge(new, wide), None, LinearMap.of(MATRIX)),
        ):
            wrong = edge.model_copy(update={"bridge": other.bridge})
            with pytest.raises(ContractError, match=r"bridge is for other models.*mixbct adapt"):
                gallery.switch(edge.from_contract, wrong)
            with pytest.raises(ValueError, match="bridge is for other models"):
                Edge.model_validate_json(wrong.to_json())
    with pytest.raises(ContractError, match=r"without a bridge.*method\.query_map"):
        gallery.switch(wide, make_edge(wide, old))
    assert gallery.status().edges == ()


def test_a_bridge_of_the_wrong_way_is_refused_where_dimensions_agree(
    gallery, old, new, make_edge, vectors
):
    gallery.enrol(["a"], ["a"], vectors(1), old)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    backward = edge_with(make_edge(old, new), LinearMap.of(rotation)).bridge
    edge = make_edge(new, old).model_copy(update={"bridge": backward})
    with pytest.raises(ContractError, match="the wrong way round"):
        gallery.switch(new, edge)
    with pytest.raises(ValueError, match="the wrong way round"):
        Edge.model_validate_json(edge.to_json())


def test_a_query_that_the_map_sends_to_zero_is_named(gallery, old, wide, make_edge, vectors):
    gallery.enrol(["a"], ["a"], vectors(1), old)
    matrix = MATRIX.copy()
    matrix[4] = 0
    gallery.switch(wide, edge_with(make_edge(wide, old), LinearMap.of(matrix)))
    queries = rows(3, 12, 5)
    queries[1] = np.eye(12)[4]
    with pytest.raises(FeatureError, match=r"zero vectors: 1 of 3 features \(row 1\)"):
        gallery.search(queries, wide)


def test_an_edge_without_a_map_reads_and_writes_as_before(old, new, make_edge):
    text = make_edge(new, old).to_json()
    assert "bridge" not in text
    assert Edge.model_validate_json(text).bridge is None


def test_an_edge_of_an_earlier_version_is_read_with_its_map_as_a_bridge(old, wide, make_edge):
    edge = edge_with(make_edge(wide, old), LinearMap.of(MATRIX))
    content = json.loads(edge.to_json())
    content["query_map"] = content.pop("bridge")["query"]
    found = Edge.model_validate_json(json.dumps(content))
    assert found.bridge == edge.bridge.model_copy(update={"kind": "trained"})
