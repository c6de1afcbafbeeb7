"""Search across edges that hold a query map."""

import numpy as np
import pytest

from mixbct.data.bank import normalise
from mixbct.errors import ContractError, FeatureError
from mixbct.gallery import Gallery
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap

RNG = np.random.default_rng(3)
MATRIX, OFFSET = RNG.normal(size=(12, 8)), RNG.normal(size=8) / 4


@pytest.fixture
def wide(make_contract):
    return make_contract("wide", dim=12)


def rows(n, dim, seed):
    return normalise(np.random.default_rng(seed).standard_normal((n, dim)))


def edge_with(edge, query_map):
    return edge.model_copy(update={"query_map": query_map})


@pytest.mark.parametrize("offset", [None, OFFSET])
def test_mixed_rows_are_each_scored_in_their_own_space(gallery, old, wide, make_edge, offset):
    stored, enrolled, queries = rows(40, 8, 1), rows(30, 12, 2), rows(9, 12, 3)
    names = [f"o{i}" for i in range(40)]
    gallery.enrol(names, names, stored, old)
    before = gallery.vectors_digest()
    query_map = LinearMap.of(MATRIX, offset)
    gallery.use_model(wide, edge_with(make_edge(wide, old, threshold=0.3), query_map))
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
        first.use_model(wide, edge)
        expected = first.search(queries, wide)
    with Gallery.open(tmp_path / "g") as again:
        (shown,) = again.status().edges
        assert (shown.to_contract, shown.query_map) == (old, edge.query_map.digest)
        assert edge.query_map.matrix not in again.status().to_json()
        found = again.search(queries, wide)
        np.testing.assert_array_equal(found.scores, expected.scores)


def test_an_edge_between_equal_dimensions_may_hold_a_map(gallery, old, new, make_edge, vectors):
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    keys = list("abcde")
    gallery.enrol(keys, keys, vectors(5), old)
    gallery.use_model(new, edge_with(make_edge(new, old), LinearMap.of(rotation.T)))
    hits = gallery.search(vectors(5) @ rotation, new, k=1)
    assert [hits.of(i)[0].key for i in range(5)] == keys
    np.testing.assert_allclose(hits.scores, 1, atol=1e-5)


def test_maps_that_do_not_fit_are_refused(gallery, old, wide, make_edge, vectors):
    gallery.enrol(["a"], ["a"], vectors(1), old)
    for matrix in (MATRIX.T, MATRIX[:, :7], MATRIX[:11]):
        edge = edge_with(make_edge(wide, old), LinearMap.of(matrix))
        with pytest.raises(ContractError, match=r"query map .* not from 12 to 8; run"):
            gallery.use_model(wide, edge)
    with pytest.raises(ContractError, match=r"no query map.*method\.query_map"):
        gallery.use_model(wide, make_edge(wide, old))
    assert gallery.status().edges == ()


def test_a_query_that_the_map_sends_to_zero_is_named(gallery, old, wide, make_edge, vectors):
    gallery.enrol(["a"], ["a"], vectors(1), old)
    matrix = MATRIX.copy()
    matrix[4] = 0
    gallery.use_model(wide, edge_with(make_edge(wide, old), LinearMap.of(matrix)))
    queries = rows(3, 12, 5)
    queries[1] = np.eye(12)[4]
    with pytest.raises(FeatureError, match=r"zero vectors: 1 of 3 features \(row 1\)"):
        gallery.search(queries, wide)


def test_an_edge_without_a_map_reads_and_writes_as_before(old, new, make_edge):
    text = make_edge(new, old).to_json()
    assert "query_map" not in text
    assert Edge.model_validate_json(text).query_map is None
