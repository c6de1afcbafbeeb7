"""Every promise of `mixbct.gallery.store`, held by every store."""

import contextlib
import threading
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from mixbct.errors import FeatureError, GalleryError
from mixbct.features.bridged import through
from mixbct.gallery.records import Item, QueryModel, Stored, Switch
from mixbct.gallery.transaction import needed_by
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.record import now


def put(store, contract, keys, rows, labels=None):
    with store.write() as transaction:
        return transaction.put(keys, labels or [f"label {key}" for key in keys], contract, rows)


def names(n, prefix="k"):
    return [f"{prefix}{i:03}" for i in range(n)]


def all_rows(snapshot, contract, after=0):
    """Return ids, keys, labels and vectors of a contract, over all blocks."""
    blocks = list(snapshot.blocks(contract, after))
    if not blocks:
        return np.empty(0, np.int64), [], [], np.empty((0, contract.dim), np.float32)
    ids, keys, labels, vectors = zip(*blocks, strict=True)
    return np.concatenate(ids), [*chain(*keys)], [*chain(*labels)], np.concatenate(vectors)


def check_search(store, contract, expected, queries, side=None, k=4):
    """Hold a search against brute force in float64; `expected` maps keys to vectors."""
    keys = sorted(expected)
    rows = np.stack([expected[key] for key in keys]) if keys else np.empty((0, contract.dim))
    with store.read() as snapshot:
        found = snapshot.search(contract, queries, k, side)
        items = snapshot.items(np.unique(found.ids).tolist())
    assert found.scores.shape == found.ids.shape == (len(queries), min(k, len(keys)))
    assert found.scores.dtype == np.float32
    assert found.exact
    mapped = through(side, rows.astype(np.float32)) if len(rows) else rows
    scores = queries.astype(float) @ mapped.astype(float).T if keys else np.empty((len(queries), 0))
    order = np.argsort(-scores, axis=1)[:, :k]
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, order, 1), atol=1e-6)
    for q, places in enumerate(order):
        assert [items[id].key for id in found.ids[q].tolist()] == [keys[i] for i in places]


def counts(store):
    with store.read() as snapshot:
        return {stored.contract.name: stored.rows for stored in snapshot.contracts()}


def test_an_empty_store(any_store, old):
    with any_store.read() as snapshot:
        assert snapshot.query_model() == QueryModel(old, None)
        (first,) = snapshot.switches()
        assert (first.number, first.model.contract, first.before, first.restores) == (
            1,
            old,
            None,
            None,
        )
        assert first.stands_for == 1
        assert snapshot.edges() == []
        assert snapshot.contracts() == []
        assert snapshot.ids(["a"]) == {}
        assert snapshot.items([]) == snapshot.vectors([]) == {}
        assert all_rows(snapshot, old)[1] == []
        assert snapshot.versions("a") == []
        found = snapshot.search(old, np.eye(8, dtype=np.float32)[:3], 5)
        assert found.scores.shape == found.ids.shape == (3, 0)
        assert snapshot.faults() == []
    assert any_store.size() > 0
    assert any_store.place


def test_rows_come_back_as_they_were_put(any_store, old, new, vectors):
    assert put(any_store, old, ["b", "a", "c"], vectors(3, 1), ["x", None, ""]) == []
    assert put(any_store, new, ["d"], vectors(1, 2)) == []
    with any_store.read() as snapshot:
        ids, keys, labels, rows = all_rows(snapshot, old)
        assert (np.diff(ids) > 0).all()
        assert ids.min() > 0
        assert (keys, labels) == (["b", "a", "c"], ["x", None, ""])
        assert rows.dtype == np.float32
        assert np.array_equal(rows, vectors(3, 1))
        assert snapshot.contracts() == sorted(
            [Stored(old, 3), Stored(new, 1)], key=lambda s: s.contract.id
        )
        found = snapshot.ids(["d", "no", "a"])
        assert list(found) == ["d", "a"]
        assert found["a"] == ids[1]
        wanted = [found["a"], found["d"]]
        assert snapshot.items(wanted) == {
            found["a"]: Item("a", None, old.id),
            found["d"]: Item("d", "label d", new.id),
        }
        by_id = snapshot.vectors(wanted)
        assert np.array_equal(by_id[found["a"]], vectors(3, 1)[1])
        assert np.array_equal(by_id[found["d"]], vectors(1, 2)[0])
        later = all_rows(snapshot, old, after=int(ids[0]))
        assert np.array_equal(later[0], ids[1:])
        assert np.array_equal(later[3], vectors(3, 1)[1:])
        (version,) = snapshot.versions("a")
        assert (version.id, version.label, version.contract_id) == (ids[1], None, old.id)
        assert version.until is None
        with pytest.raises(GalleryError):
            snapshot.items([int(ids.max()) + 1000])
        with pytest.raises(GalleryError):
            snapshot.vectors([int(ids.max()) + 1000])


def test_more_rows_than_a_block(any_store, old, vectors):
    seen = []
    rows = vectors(9000, 3)
    keys = names(9000)
    with any_store.write() as transaction:
        transaction.put(keys, [None] * 9000, old, rows, lambda done, n: seen.append((done, n)))
    assert seen[-1] == (9000, 9000)
    assert sorted(seen) == seen
    with any_store.read() as snapshot:
        ids, there, _, found = all_rows(snapshot, old)
        assert dict(zip(there, ids.tolist(), strict=True)) == snapshot.ids(keys)
        order = np.argsort(there)
        assert np.array_equal(found[order], rows[np.argsort(keys)])
    check_search(any_store, old, dict(zip(keys, rows, strict=True)), vectors(5, 4), k=30)


def test_a_row_that_is_replaced_becomes_history(any_store, old, new, vectors):
    put(any_store, old, ["a", "b", "c"], vectors(3, 1))
    with any_store.read() as snapshot:
        before = snapshot.ids(["a", "b", "c"])
    assert put(any_store, new, ["x", "c", "a"], vectors(3, 2), ["1", "2", "3"]) == ["c", "a"]
    assert counts(any_store) == {"old": 1, "new": 3}
    with any_store.read() as snapshot:
        after = snapshot.ids(["a", "b", "c", "x"])
        assert after["b"] == before["b"]
        assert len({*before.values(), *after.values()}) == 6
        first, second = snapshot.versions("a")
        assert (first.id, first.label, first.contract_id) == (before["a"], "label a", old.id)
        assert first.until is not None
        assert (second.id, second.label, second.contract_id) == (after["a"], "3", new.id)
        assert (second.until, second.since >= first.since) == (None, True)
        with pytest.raises(GalleryError):
            snapshot.items([before["a"]])
    check_search(any_store, old, {"b": vectors(3, 1)[1]}, vectors(2, 5))
    check_search(any_store, new, dict(zip("xca", vectors(3, 2), strict=True)), vectors(2, 5))
    # an id is never used twice, however the rows come and go
    assert put(any_store, old, ["a"], vectors(1, 3)) == ["a"]
    with any_store.read() as snapshot:
        again = snapshot.ids(["a"])["a"]
        assert again not in {*before.values(), *after.values()}
        assert len(snapshot.versions("a")) == 3


def test_rows_that_are_removed_become_history(any_store, old, vectors):
    put(any_store, old, ["a", "b", "c"], vectors(3, 1))
    with any_store.write() as transaction:
        assert transaction.remove(["c", "no", "a", "c"]) == ["c", "a"]
        assert list(transaction.ids(["a", "b", "c"])) == ["b"]
    assert counts(any_store) == {"old": 1}
    check_search(any_store, old, {"b": vectors(3, 1)[1]}, vectors(2, 5))
    with any_store.read() as snapshot:
        (version,) = snapshot.versions("a")
        assert version.until is not None
    put(any_store, old, ["a"], vectors(1, 9))
    with any_store.read() as snapshot:
        assert [version.until is None for version in snapshot.versions("a")] == [False, True]


def test_a_search_follows_every_change(any_store, old, new, vectors):
    rng = np.random.default_rng(0)
    expected = {old: {}, new: {}}
    side = LinearMap.of(rng.normal(size=(8, 5)), rng.normal(size=5))
    for step in range(25):
        contract = (old, new)[step % 2]
        keys = [f"k{i}" for i in rng.choice(60, size=8, replace=False)]
        rows = vectors(8, 100 + step)
        if step % 5 == 4:
            with any_store.write() as transaction:
                transaction.remove(keys)
        else:
            put(any_store, contract, keys, rows)
        for each in expected.values():
            for key in keys:
                each.pop(key, None)
        if step % 5 != 4:
            expected[contract].update(zip(keys, rows, strict=True))
        for each, there in expected.items():
            check_search(any_store, each, there, vectors(3, 200 + step), k=60)
            check_search(any_store, each, there, vectors(3, step, 5), side, k=7)


def test_rows_are_compared_through_a_side_and_stay_as_they_are(any_store, old, vectors):
    keys, rows = names(40), vectors(40, 1)
    put(any_store, old, keys, rows)
    rng = np.random.default_rng(1)
    for dim in (3, 8, 12):
        side = LinearMap.of(rng.normal(size=(8, dim)), rng.normal(size=dim) if dim != 8 else None)
        expected = dict(zip(keys, rows, strict=True))
        check_search(any_store, old, expected, vectors(4, 2, dim), side)
        check_search(any_store, old, expected, vectors(4, 2), None)
    with any_store.read() as snapshot:
        assert np.array_equal(all_rows(snapshot, old)[3], rows)


def test_a_side_that_does_not_fit_is_refused(any_store, old, vectors):
    put(any_store, old, names(3), np.eye(8, dtype=np.float32)[:3])
    flat = np.eye(8)
    flat[1] = 0
    for side in (LinearMap.of(flat), LinearMap.of(np.eye(5))):
        with pytest.raises(FeatureError), any_store.read() as snapshot:
            snapshot.search(old, vectors(2, 1, side.target_dim), 2, side)
        with pytest.raises(FeatureError):
            any_store.prepare(old, side)
    check_search(any_store, old, dict(zip(names(3), np.eye(8)[:3], strict=True)), vectors(2))


def test_what_is_prepared_is_ready_until_a_switch_needs_it_not(
    any_store, kind, old, new, make_edge, vectors, switched
):
    keys, rows = names(30), vectors(30, 1)
    put(any_store, old, keys, rows)
    edge = make_edge(new, old, seed=1)
    side = edge.bridge.gallery
    with any_store.read() as snapshot:
        assert snapshot.ready(old, side) is None
    seen = []
    any_store.prepare(old, side, lambda done, n: seen.append((done, n)))
    assert seen[-1] == (30, 30)
    any_store.prepare(old, None)
    other = kind.open()
    for store in (any_store, other):
        with store.read() as snapshot:
            assert snapshot.ready(old, side) == snapshot.ready(old) == 30
    # rows that come and go are followed
    put(any_store, old, ["k003", "more"], vectors(2, 5))
    expected = dict(zip(keys, rows, strict=True))
    expected |= dict(zip(["k003", "more"], vectors(2, 5), strict=True))
    check_search(other, old, expected, vectors(3, 2, 6), side)
    with any_store.write() as transaction:
        transaction.add_edge(edge)
        switched(transaction, new)
    with other.read() as snapshot:
        assert snapshot.ready(old, side)
        assert snapshot.ready(old)  # for the way back
    with any_store.write() as transaction:
        switched(transaction, old, restores=1)
    other.close()
    check_search(any_store, old, expected, vectors(3, 2, 6), side)


def test_edges_are_kept_one_between_two(any_store, old, new, make_edge):
    edges = [
        make_edge(new, old, 0.4),
        make_edge(old, new, 0.6),
        make_edge(new, new, 0.7),
        make_edge(new, old, 0.3, seed=1),
    ]
    with any_store.write() as transaction:
        for edge in edges:
            transaction.add_edge(edge)
        assert len(transaction.edges()) == 3
    with any_store.read() as snapshot:
        found = snapshot.edges()
        assert {(e.from_contract.id, e.to_contract.id): e for e in found} == {
            (e.from_contract.id, e.to_contract.id): e for e in edges[1:]
        }
        assert snapshot.contracts() == []


def test_edges_are_parsed_once(any_store, old, new, make_edge, monkeypatch):
    with any_store.write() as transaction:
        transaction.add_edge(make_edge(new, old, seed=1))
    with any_store.read() as snapshot:
        first = snapshot.edges()[0]
    put(any_store, old, ["a"], np.eye(8, dtype=np.float32)[:1])
    with any_store.read() as snapshot:
        assert snapshot.edges()[0] is first
    with any_store.write() as transaction:
        transaction.add_edge(make_edge(new, old, 0.1))
    with any_store.read() as snapshot:
        assert snapshot.edges()[0].threshold == 0.1


def test_switches_are_kept_in_order(any_store, old, new, tmp_path):
    second = Switch(2, QueryModel(new, tmp_path / "model"), now(), 1)
    third = Switch(3, QueryModel(old, None), now(), None, 1)
    with any_store.write() as transaction:
        transaction.switch(second)
        assert transaction.query_model() == second.model
    with any_store.read() as snapshot:
        assert snapshot.query_model() == QueryModel(new, Path(tmp_path / "model"))
    with any_store.write() as transaction:
        transaction.switch(third)
    with any_store.read() as snapshot:
        assert snapshot.switches()[1:] == [second, third]
        assert [switch.stands_for for switch in snapshot.switches()] == [1, 2, 1]
        assert snapshot.query_model() == third.model


def test_an_error_takes_everything_back(any_store, old, new, make_edge, vectors, switched):
    put(any_store, old, ["a", "b"], vectors(2, 1))

    def change_and_fail():
        with any_store.write() as transaction:
            transaction.put(["a", "c"], ["x", "y"], new, vectors(2, 5))
            transaction.remove(["b"])
            transaction.add_edge(make_edge(new, old))
            switched(transaction, new)
            # a transaction sees what it did
            assert list(transaction.ids(["a", "b", "c"])) == ["a", "c"]
            found = transaction.search(new, vectors(2, 5), 1)
            assert [item.key for item in transaction.items(found.ids[:1, 0].tolist()).values()] == [
                "a"
            ]
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        change_and_fail()
    with any_store.read() as snapshot:
        assert snapshot.contracts() == [Stored(old, 2)]
        assert snapshot.edges() == []
        assert len(snapshot.switches()) == 1
        assert np.array_equal(all_rows(snapshot, old)[3], vectors(2, 1))
        assert len(snapshot.versions("a")) == 1
    check_search(any_store, old, dict(zip("ab", vectors(2, 1), strict=True)), vectors(2, 6))
    check_search(any_store, new, {}, vectors(2, 6))


def test_a_transaction_searches_what_it_changed(any_store, old, vectors):
    put(any_store, old, ["a"], vectors(1, 1))
    with any_store.write() as transaction:
        for step in range(3):
            transaction.put([f"n{step}"], [None], old, vectors(1, 10 + step))
            found = transaction.search(old, vectors(1, 10 + step), 1)
            (item,) = transaction.items(found.ids[0].tolist()).values()
            assert item.key == f"n{step}"
        transaction.remove(["n2"])
        assert transaction.search(old, vectors(1), 9).ids.shape == (1, 3)
    expected = {"a": vectors(1, 1)[0], "n0": vectors(1, 10)[0], "n1": vectors(1, 11)[0]}
    check_search(any_store, old, expected, vectors(2, 6))


def test_a_snapshot_does_not_change(any_store, kind, old, new, make_edge, vectors, switched):
    put(any_store, old, names(5), vectors(5, 1))
    other = kind.open()
    with other.read() as snapshot:
        assert snapshot.contracts() == [Stored(old, 5)]
        before = snapshot.search(old, vectors(2, 7), 5)
        put(any_store, old, ["k001", "x"], vectors(2, 2))
        with any_store.write() as transaction:
            transaction.add_edge(make_edge(new, old))
            switched(transaction, new)
        check_search(
            any_store,
            old,
            {
                **dict(zip(names(5), vectors(5, 1), strict=True)),
                **dict(zip(["k001", "x"], vectors(2, 2), strict=True)),
            },
            vectors(2, 7),
        )
        again = snapshot.search(old, vectors(2, 7), 5)
        assert np.array_equal(again.ids, before.ids)
        assert np.array_equal(again.scores, before.scores)
        assert snapshot.contracts() == [Stored(old, 5)]
        assert snapshot.query_model().contract == old
        assert snapshot.edges() == []
        assert all_rows(snapshot, old)[1] == names(5)
    with other.read() as snapshot:
        assert snapshot.query_model().contract == new
    other.close()


def test_one_transaction_at_a_time(any_store, kind, old, vectors):
    other = kind.open(timeout=0.05)
    with any_store.write() as transaction:
        transaction.put(["a"], [None], old, vectors(1))
        for wait in (True, False):
            with pytest.raises(GalleryError, match="being written"), other.write(wait):
                pass
        with other.read() as snapshot:  # reading goes on
            assert snapshot.contracts() == []
    with other.write() as transaction:
        assert transaction.remove(["a"]) == ["a"]
    other.close()


def test_threads_share_a_store(any_store, old, vectors):
    """Half of them write, half search: every search sees whole batches."""
    failed = []
    done = threading.Event()

    def write(number):
        for step in range(15):
            keys = [f"{number}-{step}-{i}" for i in range(4)]
            with any_store.write() as transaction:
                transaction.put(keys, keys, old, vectors(4, 1000 * number + step))

    def search():
        last = 0
        while not done.is_set():
            with any_store.read() as snapshot:
                found = snapshot.search(old, vectors(2), 1000)
                items = snapshot.items(found.ids[0].tolist())
                (rows,) = [s.rows for s in snapshot.contracts()] or [0]
                if not len(items) == rows == found.ids.shape[1] or rows % 4 or rows < last:
                    failed.append((len(items), rows, found.ids.shape))
                last = rows

    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    readers = [threading.Thread(target=search) for _ in range(3)]
    for thread in writers + readers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert failed == []
    assert counts(any_store) == {"old": 120}


def test_another_opener_sees_what_was_committed(any_store, kind, old, vectors):
    put(any_store, old, names(3), vectors(3, 1))
    with contextlib.closing(kind.open()) as other:
        expected = dict(zip(names(3), vectors(3, 1), strict=True))
        check_search(other, old, expected, vectors(2))
        put(any_store, old, ["n"], vectors(1, 2))
        check_search(other, old, expected | {"n": vectors(1, 2)[0]}, vectors(2))


def history(store, key):
    with store.read() as snapshot:
        return [(version.label, version.contract_id) for version in snapshot.versions(key)]


def test_restoring_gives_back_what_was_replaced_since(
    any_store, old, new, make_edge, vectors, switched
):
    keys, rows = names(6), vectors(6, 1)
    first_edge = make_edge(new, old, 0.2, seed=1)
    with any_store.write() as transaction:
        transaction.put(keys, [None, *keys[1:]], old, rows)
        transaction.add_edge(first_edge)
        transaction.add_edge(make_edge(old, new, 0.9))
    with any_store.write() as transaction:
        transaction.add_edge(make_edge(new, old, 0.7))  # by the switch itself
        number = switched(transaction, new)
    put(any_store, new, ["k000", "k001", "n"], vectors(3, 2), ["x", "y", "z"])
    put(any_store, new, ["k000"], vectors(1, 3), ["again"])
    put(any_store, old, ["k002"], vectors(1, 4), ["a new picture"])  # under what is gone back to
    with any_store.write() as transaction:
        transaction.remove(["k003"])
        transaction.add_edge(make_edge(new, new, 0.1))
    with any_store.write() as transaction:
        assert transaction.restore(number, keep=old) == (["k000", "k001"], [])
        switched(transaction, old, restores=1)
    expected = dict(zip(keys, rows, strict=True)) | {"k002": vectors(1, 4)[0]}
    del expected["k003"]
    check_search(any_store, old, expected, vectors(3, 9), k=9)
    check_search(any_store, new, {"n": vectors(3, 2)[2]}, vectors(3, 9))
    with any_store.read() as snapshot:
        assert snapshot.items(snapshot.ids(["k000"]).values()).popitem()[1] == Item(
            "k000", None, old.id
        )
        by_id = snapshot.vectors(snapshot.ids(["k001"]).values())
        assert np.array_equal(*by_id.values(), rows[1])
        thresholds = {(e.from_contract.id, e.to_contract.id): e for e in snapshot.edges()}
        assert thresholds[new.id, old.id] == first_edge
        assert thresholds[old.id, new.id].threshold == 0.9
        assert thresholds[new.id, new.id].threshold == 0.1
        assert snapshot.faults() == []
    assert [label for label, _ in history(any_store, "k000")] == [None, "x", "again", None]
    # nothing that was enrolled is lost: the history has it all
    assert history(any_store, "k003") == [("k003", old.id)]


def test_restoring_goes_back_over_several_switches(any_store, old, new, make_contract, vectors):
    newest = make_contract("newest")

    def switch(contract, restores=None):
        with any_store.write() as transaction:
            number = transaction.switches()[-1].number + 1
            transaction.switch(
                Switch(number, QueryModel(contract, None), now(), number - 1, restores)
            )
            return number

    put(any_store, old, ["a", "b"], vectors(2, 1))
    second = switch(new)
    put(any_store, new, ["a"], vectors(1, 2))
    third = switch(newest)
    put(any_store, newest, ["a", "b"], vectors(2, 3))
    with any_store.write() as transaction:
        assert transaction.restore(third, keep=new) == (["a", "b"], [])
        assert transaction.restore(third, keep=new) == ([], [])  # they have it
    switch(new, restores=second)
    check_search(any_store, new, {"a": vectors(1, 2)[0]}, vectors(1))
    check_search(any_store, old, {"b": vectors(2, 1)[1]}, vectors(1))
    with any_store.write() as transaction:
        assert transaction.restore(second, keep=old) == (["a"], [])
    check_search(any_store, old, dict(zip("ab", vectors(2, 1), strict=True)), vectors(1))
    with pytest.raises(GalleryError), any_store.write() as transaction:
        transaction.restore(77, keep=old)


def test_pruning_forgets_the_history_and_nothing_else(
    any_store, kind, old, new, make_edge, vectors, switched
):
    put(any_store, old, ["a", "b", "c"], vectors(3, 1))
    with any_store.write() as transaction:
        transaction.add_edge(make_edge(new, old, 0.1))
        number = switched(transaction, new)
        transaction.add_edge(make_edge(new, old, 0.2))
    put(any_store, new, ["a", "b"], vectors(2, 2))
    with any_store.write() as transaction:
        transaction.remove(["b"])
    check_search(any_store, old, {"c": vectors(3, 1)[2]}, vectors(1))
    with any_store.write() as transaction:
        assert transaction.prune() == 3
    expected = {"a": vectors(2, 2)[0]}
    for store in (any_store, kind.open()):
        check_search(store, new, expected, vectors(1))
        check_search(store, old, {"c": vectors(3, 1)[2]}, vectors(1))
        with store.read() as snapshot:
            assert len(snapshot.versions("a")) == 1
            assert snapshot.versions("b") == []
            (switch,) = snapshot.switches()
            assert (switch.number, switch.before, switch.model.contract) == (number, None, new)
            assert [edge.threshold for edge in snapshot.edges()] == [0.2]
            assert snapshot.faults() == []
    store.close()
    with pytest.raises(GalleryError), any_store.write() as transaction:
        transaction.restore(1, keep=old)
    # what is behind an index from before is not found in the history any more
    with any_store.write() as transaction:
        transaction.remove(["a"])
        transaction.prune()
    check_search(any_store, new, {}, vectors(1))
    # nor does it grow with what changed no item
    for _ in range(9):
        with any_store.write() as transaction:
            transaction.remove([])
            transaction.prune()
    with any_store.read() as snapshot:
        assert snapshot.do("SELECT count(*) FROM changes")[0][0] <= 6
        assert snapshot.versions("c")[0].since


def test_a_half_read_stream_does_not_hold_the_state(any_store, old, vectors):
    put(any_store, old, names(9000), vectors(9000))
    with any_store.read() as snapshot:
        stream = snapshot.blocks(old)
        next(stream)
    put(any_store, old, ["n"], vectors(1, 1))
    assert counts(any_store) == {"old": 9001}
    with any_store.write() as transaction:
        more = transaction.blocks(old)
        next(more)
        transaction.remove(["n"])
    assert counts(any_store) == {"old": 9000}


def test_hits_are_counted_until_they_are_forgotten(any_store, old, new, vectors, monkeypatch):
    put(any_store, old, ["a", "b", "c"], vectors(3))
    with any_store.write() as transaction:
        assert transaction.hits() == {}
        transaction.count_hits({"a": 2, "c": 1, "nobody": 7})
        asked, do = [], transaction.do
        with monkeypatch.context() as patch:
            patch.setattr(transaction, "do", lambda *query: asked.append(query) or do(*query))
            transaction.count_hits({"a": 1, "b": 2, "c": 0})
        assert len(asked) == 2  # however many there are
        transaction.do("DELETE FROM hits WHERE key = 'b'")
        assert transaction.hits() == {"a": 3, "c": 1}
    with any_store.read() as before:
        assert before.hits() == {"a": 3, "c": 1}
        put(any_store, new, ["a"], vectors(1, 5))  # replacing keeps it
        with any_store.write() as transaction:
            transaction.remove(["c"])
        assert before.hits() == {"a": 3, "c": 1}
    put(any_store, old, ["c"], vectors(1, 6))
    with any_store.read() as snapshot:
        assert snapshot.hits() == {"a": 3}
        assert snapshot.faults() == []
    with any_store.write() as transaction:
        transaction.count_hits({"c": 4})
        transaction.prune()
        assert transaction.hits() == {"a": 3, "c": 4}
    with any_store.write() as transaction:
        transaction.forget_hits()
    with any_store.read() as snapshot:
        assert snapshot.hits() == {}


def test_one_damaged_row_stops_nothing_else(any_store, old, new, vectors, switched):
    put(any_store, old, ["a", "b", "c", "d"], vectors(4, 1))
    with any_store.write() as transaction:
        number = switched(transaction, new)
    put(any_store, new, ["a", "b"], vectors(2, 2))
    with any_store.write() as transaction:
        transaction.do("UPDATE past SET label = 'x' WHERE key = 'a'")
        transaction.do("UPDATE rows_1 SET label = 'x' WHERE key IN ('c', 'd')")
    with any_store.write() as transaction:
        assert transaction.remove(["c"]) == ["c"]
    assert put(any_store, old, ["d"], vectors(1, 5)) == ["d"]
    with any_store.write() as transaction:
        assert transaction.restore(number, keep=old) == (["b"], ["a"])
    assert counts(any_store) == {"old": 2, "new": 1}
    check_search(any_store, old, {"b": vectors(4, 1)[1], "d": vectors(1, 5)[0]}, vectors(3))
    with any_store.read() as snapshot:
        # a damaged row does not become history where the database can see it
        found = {fault[10:11] for fault in snapshot.faults()}
        assert "a" in found
        assert found <= ({"a"} if any_store.database.whole else {"a", "c", "d"})


def test_a_key_is_one_item_whichever_model_it_is_of(any_store, old, new, vectors):
    put(any_store, old, ["a", "b"], vectors(2, 1))
    assert put(any_store, new, ["b", "c"], vectors(2, 2)) == ["b"]
    with any_store.read() as snapshot:
        assert counts(any_store) == {"old": 1, "new": 2}
        assert snapshot.ids(["c", "b", "a", "no"]).keys() == {"a", "b", "c"}
        assert snapshot.faults() == []
    with any_store.write() as transaction:  # as nobody but a stranger leaves it
        of = "id + 100, key, label, digest, vector"
        transaction.do(f"INSERT INTO rows_1 SELECT {of} FROM rows_2 WHERE key = 'b'")
        transaction.do("UPDATE contracts SET rows = rows + 1 WHERE number = 1")
        transaction.changing()
    with any_store.read() as snapshot:
        assert "3 keys are there, 4 items are told of" in snapshot.faults()


def test_what_lies_between_rows_is_not_read(any_store, old, new, vectors, monkeypatch):
    for contract, keys in ((old, ["a", "b"]), (new, names(30)), (old, ["c"])):
        put(any_store, contract, keys, vectors(len(keys), len(keys)))
    monkeypatch.setattr("mixbct.gallery.snapshot.BLOCK", 4)
    with any_store.read() as snapshot:
        seen, do = [], snapshot.do
        monkeypatch.setattr(snapshot, "do", lambda *asked: seen.append(do(*asked)) or seen[-1])
        assert all_rows(snapshot, old)[1] == ["a", "b", "c"]
        assert max(map(len, seen)) == 3


def test_what_is_needed_goes_by_the_id_of_a_contract(old, new, make_edge):
    edge, renamed = make_edge(new, old, seed=1), new.model_copy(update={"name": "renamed"})
    assert renamed.id == new.id
    assert (old.id, edge.bridge.gallery.digest) in needed_by([renamed], [edge])
