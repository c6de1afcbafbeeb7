"""The immutable index: versions that share what they have in common."""

import numpy as np
import pytest

from mixbct.gallery.sqlite import index as module
from mixbct.gallery.sqlite.index import RowIndex


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch):
    monkeypatch.setattr(module, "SEGMENT", 16)


def built(ids, rows, block=5):
    return RowIndex().with_rows(
        (ids[i : i + block], rows[i : i + block]) for i in range(0, len(ids), block)
    )


def check(index, ids, rows, queries, k=7):
    """Hold an index against brute force."""
    held = [segment.ids for segment in index.segments]
    assert np.array_equal(np.concatenate([np.empty(0, np.int64), *held]), ids)
    assert all(len(each) for each in held)
    assert len(index) == len(ids)
    scores, found = index.search(queries, k)
    exact = queries.astype(float) @ rows.astype(float).T
    order = np.argsort(-exact, axis=1)[:, :k]
    assert np.array_equal(found, ids[order])
    np.testing.assert_allclose(scores, np.take_along_axis(exact, order, 1), atol=1e-6)


def test_rows_come_and_go(vectors):
    rng = np.random.default_rng(0)
    index, rows, ids, last = RowIndex(), np.empty((0, 8), np.float32), np.empty(0, np.int64), 0
    check(index, ids, rows, vectors(3))
    for step in range(60):
        gone = rng.choice(last + 9, size=rng.integers(0, 9), replace=False)
        earlier = index
        index = index.without(np.sort(gone).astype(np.int64))
        keep = ~np.isin(ids, gone)
        before = ids, rows
        ids, rows = ids[keep], rows[keep]
        check(index, ids, rows, vectors(3, 100 + step))
        more = vectors(int(rng.integers(1, 12)), step)
        new = last + 1 + np.sort(rng.choice(3 * len(more), len(more), replace=False))
        index = index.with_rows([(new, more)])
        ids, rows = np.concatenate([ids, new]), np.concatenate([rows, more])
        last = int(new[-1])
        assert index.last == last
        check(index, ids, rows, vectors(3, 100 + step))
        check(earlier, *before, vectors(3, 100 + step))  # which is as it was
    assert len(index.segments) <= 2 + 2 * len(index) // 16


def test_the_highest_row_may_go_and_its_id_never_comes_back(vectors):
    index = built(np.arange(1, 41), vectors(40)).without(np.array([40]))
    assert index.last == 40
    check(index, np.arange(1, 40), vectors(40)[:39], vectors(2, 5))
    assert index.with_rows([]).last == 40


def test_one_changed_row_costs_one_segment(vectors):
    index = built(np.arange(1, 1001), vectors(1000))
    changed = index.without(np.array([500])).with_rows([(np.array([1001]), vectors(1, 3))])
    shared = {id(segment.vectors) for segment in index.segments}
    own = [segment for segment in changed.segments if id(segment.vectors) not in shared]
    assert len(index.segments) > 40
    assert len(own) <= 2


def test_many_small_segments_are_joined(vectors):
    index = built(np.arange(1, 401), vectors(400))
    for id in range(1, 381):
        index = index.without(np.array([id]))
    assert len(index.segments) <= 2
    check(index, np.arange(381, 401), vectors(400)[380:], vectors(3, 4))


def test_the_file_is_ids_then_vectors_and_nothing_else(tmp_path, vectors):
    ids, rows = np.arange(3, 103), vectors(100)
    index = built(ids, rows)
    path = tmp_path / "file"
    with path.open("wb") as file:
        sha256 = index.write(file)
    assert path.read_bytes() == ids.astype("<i8").tobytes() + rows.astype("<f4").tobytes()
    again = module.read_index(path, 100, 8, sha256)
    check(again, ids, rows, vectors(3, 4))
    for rows_told, dim, digest in ((99, 8, sha256), (100, 4, sha256), (100, 8, "0" * 64)):
        assert module.read_index(path, rows_told, dim, digest) is None
    assert module.read_index(tmp_path / "none", 100, 8, sha256) is None
