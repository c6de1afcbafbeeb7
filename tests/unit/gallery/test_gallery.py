"""The gallery's rules, over the real store."""

import numpy as np
import pytest

from mixbct.errors import ContractError, FeatureError, GalleryError
from mixbct.gallery import Gallery


def names(prefix, n):
    return [f"{prefix}{i}" for i in range(n)]


def enrol(gallery, prefix, rows, contract, replace=False):
    keys = names(prefix, len(rows))
    return gallery.enrol(keys, [f"label {k}" for k in keys], rows, contract, replace)


def test_search_of_mixed_contracts_equals_brute_force(gallery, old, new, make_edge, vectors):
    stored_old, stored_new, queries = vectors(40, 1), vectors(30, 2), vectors(9, 3)
    enrol(gallery, "o", stored_old * 7, old)
    gallery.switch(new, make_edge(new, old, threshold=0.55))
    enrol(gallery, "n", stored_new.astype(np.float64), new)
    hits = gallery.search(queries * 0.1, new, k=12)

    scores = queries @ np.concatenate([stored_old, stored_new]).T
    keys = np.array(names("o", 40) + names("n", 30))
    order = np.argsort(-scores, axis=1)[:, :12]
    assert hits.scores.dtype == np.float32
    np.testing.assert_allclose(hits.scores, np.take_along_axis(scores, order, 1), atol=1e-6)
    kinds = set()
    for query in range(9):
        found = hits.of(query)
        assert [hit.key for hit in found] == keys[order[query]].tolist()
        assert [hit.rank for hit in found] == list(range(1, 13))
        for hit in found:
            assert hit.label == f"label {hit.key}"
            assert hit.contract == str(old if hit.key[0] == "o" else new)
            assert hit.accepted == (None if hit.key[0] == "n" else hit.score > 0.55)
            kinds.add(hit.accepted)
    assert kinds == {None, True, False}


def test_fewer_rows_than_asked_for(gallery, old, vectors):
    assert gallery.search(vectors(2), old, k=3).of(1) == ()
    enrol(gallery, "o", vectors(2), old)
    assert [hit.key for hit in gallery.search(vectors(1), old, k=3).of(0)] == ["o0", "o1"]
    with pytest.raises(GalleryError, match="k is 0"):
        gallery.search(vectors(1), old, k=0)


def test_search_follows_every_change(gallery, old, new, make_edge, vectors):
    rng = np.random.default_rng(0)
    expected = {}
    gallery.switch(new, make_edge(new, old))
    for step in range(12):
        contract = (old, new)[step % 2]
        keys = [f"k{i}" for i in rng.choice(60, size=8, replace=False)]
        rows = vectors(8, seed=100 + step)
        gallery.enrol(keys, keys, rows, contract, replace=True)
        expected |= {key: (row, str(contract)) for key, row in zip(keys, rows, strict=True)}
        query = vectors(1, seed=200 + step)
        found = gallery.search(query, new, k=60).of(0)
        scores = {key: float(query[0] @ row) for key, (row, _) in expected.items()}
        assert [hit.key for hit in found] == sorted(scores, key=scores.get, reverse=True)
        assert {hit.key: hit.contract for hit in found} == {k: c for k, (_, c) in expected.items()}


def test_replacing_is_the_backfill_of_an_item(gallery, old, new, make_edge, vectors):
    enrol(gallery, "o", vectors(5), old)
    gallery.switch(new, make_edge(new, old))
    report = gallery.enrol(["o1", "n"], ["renamed", "n"], vectors(2, 9), new, replace=True)
    assert (report.added, report.replaced, report.rows) == (1, 1, 6)
    best = gallery.search(vectors(2, 9), new, k=1).of(0)[0]
    assert (best.key, best.label, best.contract) == ("o1", "renamed", str(new))
    assert {r.contract.id: r.rows for r in gallery.status().contracts} == {old.id: 4, new.id: 2}


def test_a_switch_without_an_edge_is_refused_and_names_both(gallery, old, new, vectors):
    enrol(gallery, "o", vectors(3), old)
    with pytest.raises(ContractError) as refused:
        gallery.switch(new)
    for part in (str(old), str(new), "3 rows", "mixbct gate"):
        assert part in str(refused.value)
    assert gallery.query_model().contract == old
    assert gallery.search(vectors(1), old).of(0)[0].key == "o0"


def test_another_models_edge_does_not_count(gallery, old, new, make_contract, make_edge, vectors):
    newest = make_contract("newest")
    enrol(gallery, "o", vectors(3), old)
    gallery.switch(new, make_edge(new, old))
    with pytest.raises(ContractError, match=r"newest .* cannot be the query model"):
        gallery.switch(newest)


def test_an_empty_gallery_takes_any_model(gallery, new):
    gallery.switch(new)
    assert gallery.query_model().contract == new


def test_an_edge_the_wrong_way_round_does_not_count(gallery, old, new, make_edge, vectors):
    enrol(gallery, "o", vectors(3), old)
    with pytest.raises(ContractError, match="leads from old") as refused:
        gallery.switch(new, make_edge(old, new))
    assert str(new) in str(refused.value)
    assert gallery.status().edges == ()


def test_an_edge_between_different_dimensions_is_refused(
    gallery, old, make_contract, make_edge, vectors
):
    wide = make_contract("wide", dim=16)
    enrol(gallery, "o", vectors(3), old)
    with pytest.raises(ContractError, match="16 dimensions"):
        gallery.switch(wide, make_edge(wide, old))


def test_a_refused_switch_leaves_no_edge(gallery, old, new, make_contract, make_edge, vectors):
    newest = make_contract("newest")
    enrol(gallery, "o", vectors(3), old)
    gallery.switch(new, make_edge(new, old))
    enrol(gallery, "n", vectors(2, 1), new)
    with pytest.raises(ContractError) as refused:
        gallery.switch(newest, make_edge(newest, old))
    assert str(new) in str(refused.value)
    assert str(old) not in str(refused.value)
    assert len(gallery.status().edges) == 1
    gallery.switch(newest, make_edge(newest, old), make_edge(newest, new))
    assert len(gallery.search(vectors(1), newest, k=9).of(0)) == 5


def test_switching_back(gallery, old, new, make_edge, vectors):
    enrol(gallery, "o", vectors(3), old)
    gallery.switch(new, make_edge(new, old))
    gallery.switch(old)
    gallery.switch(new)  # by the recorded edge
    enrol(gallery, "n", vectors(2, 1), new)
    with pytest.raises(ContractError) as refused:
        gallery.switch(old)
    for part in (str(old), str(new), "2 rows", "enrol --replace"):
        assert part in str(refused.value)
    gallery.switch(old, make_edge(old, new))
    assert gallery.query_model().contract == old


def test_queries_of_another_model_are_refused(gallery, old, new, make_edge, vectors):
    enrol(gallery, "o", vectors(3), old)
    gallery.switch(new, make_edge(new, old))
    with pytest.raises(ContractError) as refused:
        gallery.search(vectors(1), old)
    assert str(old) in str(refused.value)
    assert str(new) in str(refused.value)


def test_enrolling_an_untied_contract_is_refused(gallery, old, new, vectors):
    with pytest.raises(ContractError) as refused:
        enrol(gallery, "n", vectors(2), new)
    assert str(old) in str(refused.value)
    assert str(new) in str(refused.value)
    assert gallery.status().rows == 0


def test_a_contract_renamed_is_the_same(gallery, old, vectors):
    enrol(gallery, "o", vectors(2), old.model_copy(update={"name": "other"}))
    assert len(gallery.search(vectors(1), old).of(0)) == 2


@pytest.mark.parametrize(
    ("keys", "labels", "n", "error", "says"),
    [
        (["a", "o1", "o0"], ["x"] * 3, 3, GalleryError, r"2 of 3 keys .*\(o1, o0\)"),
        (["a", "b", "a"], ["x"] * 3, 3, GalleryError, r"1 keys stand twice .*\(a\)"),
        (["a", "b"], ["x"], 2, GalleryError, "2 keys, 1 labels and 2 vectors"),
        (["a"], ["x"], 2, GalleryError, "1 keys, 1 labels and 2 vectors"),
    ],
)
def test_a_bad_batch_stores_nothing(gallery, old, vectors, keys, labels, n, error, says):
    enrol(gallery, "o", vectors(2), old)
    with pytest.raises(error, match=says):
        gallery.enrol(keys, labels, vectors(n, 1), old)
    assert gallery.status().rows == 2


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_bad_vectors_are_refused_by_key(gallery, old, vectors, value):
    rows = vectors(3)
    rows[1] = value
    with pytest.raises(FeatureError, match="b"):
        gallery.enrol(["a", "b", "c"], ["x"] * 3, rows, old)
    with pytest.raises(FeatureError, match="row 1"):
        gallery.search(rows, old)
    assert gallery.status().rows == 0


def test_wrong_dimension(gallery, old):
    rows = np.ones((2, old.dim + 1), np.float32)
    with pytest.raises(FeatureError, match=r"9 dimensions.*old .* 8"):
        gallery.enrol(["a", "b"], ["x", "y"], rows, old)
    with pytest.raises(FeatureError, match="9 dimensions"):
        gallery.search(rows, old)


def test_an_empty_batch_changes_nothing(gallery, old):
    report = gallery.enrol([], [], np.empty((0, old.dim), np.float32), old)
    assert (report.added, report.replaced, report.rows) == (0, 0, 0)


def test_status(gallery, old, new, make_edge, vectors, tmp_path):
    enrol(gallery, "o", vectors(3), old)
    gallery.switch(new, make_edge(new, old, 0.25), model=tmp_path / "new")
    enrol(gallery, "n", vectors(2, 1), new)
    gallery.search(vectors(1), new)
    enrol(gallery, "m", vectors(1, 2), new)
    status = gallery.status()
    assert status.query_model == new
    assert status.model_folder == str(tmp_path / "new")
    assert status.rows == 6
    seen = {r.contract.name: (r.rows, r.threshold, r.cached_rows) for r in status.contracts}
    assert seen == {"old": (3, 0.25, 3), "new": (3, None, 2)}
    assert [edge.threshold for edge in status.edges] == [0.25]
    cached = sum(path.stat().st_size for path in tmp_path.glob("index-*"))
    assert status.size_bytes >= cached > 5 * old.dim * 4
    assert type(status).model_validate_json(status.to_json()) == status


def test_the_digest_of_the_vectors(gallery, old, new, make_edge, vectors):
    enrol(gallery, "o", vectors(3), old)
    before = gallery.vectors_digest()
    gallery.switch(new, make_edge(new, old))
    assert gallery.vectors_digest() == before
    enrol(gallery, "o", vectors(1, 1), new, replace=True)
    assert gallery.vectors_digest() != before


def test_create_and_open(tmp_path, old, vectors):
    path = tmp_path / "a" / "gallery"
    with Gallery.create(path, old, tmp_path / "model") as made:
        enrol(made, "o", vectors(4), old)
    with pytest.raises(GalleryError, match="already there"):
        Gallery.create(path, old)
    with Gallery.open(path) as opened:
        assert opened.query_model().folder == tmp_path / "model"
        assert opened.search(vectors(4), old, k=1).of(3)[0].key == "o3"
    with pytest.raises(GalleryError, match="mixbct gallery init"):
        Gallery.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(GalleryError, match="is a file"):
        Gallery.create(tmp_path / "file", old)


@pytest.mark.parametrize("name", ["a\ud800", "a\0", "two\nlines"])
def test_names_that_cannot_be_kept_apart_or_printed_are_refused(gallery, old, vectors, name):
    for keys, labels in ((["k", name], ["x", "y"]), (["k", "l"], ["x", name])):
        with pytest.raises(GalleryError, match="cannot be a key or a label") as refused:
            gallery.enrol(keys, labels, vectors(2), old)
        assert "\n" not in str(refused.value)
    assert gallery.status().rows == 0


@pytest.mark.parametrize(
    "name",
    ["a b\u00a0c", "\u202f", "\u3000", "\U0001f469\u200d\U0001f52c", "Icon\r", "\ufeffa", "a'"],
)
def test_ordinary_names_are_taken(gallery, old, vectors, name):
    gallery.enrol(["k", name], [name, "x"], vectors(2), old)
    hits = gallery.search(vectors(2), old, k=1)
    assert (hits.of(0)[0].label, hits.of(1)[0].key) == (name, name)
    gallery.enrol([name], ["y"], vectors(1, 3), old, replace=True)
    assert gallery.search(vectors(1, 3), old, k=1).of(0)[0].label == "y"
    assert gallery.status().rows == 2


def test_labels_that_differ_by_little_stay_apart(gallery, old, vectors):
    labels = ["anna", "Anna", "anna ", "\ufeffanna", ""]
    gallery.enrol(list("abcde"), labels, vectors(5), old)
    hits = gallery.search(vectors(5), old, k=1)
    assert [hits.of(i)[0].label for i in range(5)] == labels


def test_an_enrolment_says_how_far_it_is(gallery, old, vectors):
    seen = []
    keys = names("k", 20_000)
    gallery.enrol(
        keys, keys, vectors(20_000), old, progress=lambda done, total: seen.append((done, total))
    )
    done = [each for each, _ in seen]
    assert len(done) > 2
    assert done == sorted(done)
    assert seen[-1] == (20_000, 20_000)


@pytest.mark.parametrize("place", ["x" * 5000, "loop/gallery", "a\ud800", "file/gallery"])
def test_places_where_no_gallery_can_be(tmp_path, old, place):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    with pytest.raises(GalleryError, match="there is no gallery at"):
        Gallery.open(tmp_path / place)
    if place != "a\ud800":  # which is a name as good as any
        with pytest.raises(GalleryError, match="a gallery cannot be made at"):
            Gallery.create(tmp_path / place, old)


def test_the_size_is_that_of_all_that_is_there(gallery, old, vectors, tmp_path):
    enrol(gallery, "o", vectors(3), old)
    before = gallery.status().size_bytes
    (tmp_path / f".index-{old.id}.rows.0123456789abcdef.partial").write_bytes(bytes(520))
    assert gallery.status().size_bytes == before + 520
    gallery.search(vectors(1), old)
    assert not list(tmp_path.glob(".*.partial"))
