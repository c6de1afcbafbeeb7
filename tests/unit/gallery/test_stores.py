"""What the store keeps, and how it is told apart."""

import numpy as np
import pytest

from mixbct.gallery.records import Item, QueryModel


def put(store, contract, vectors, keys, seed=0):
    with store.writing():
        return store.put(
            keys, [f"label of {key}" for key in keys], contract, vectors(len(keys), seed)
        )


def rows(store, contract, after=0):
    blocks = list(store.blocks(contract, after))
    if not blocks:
        return np.empty(0, np.int64), np.empty((0, contract.dim), np.float32)
    return tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))


def rows_of(store):
    return {stored.contract: stored.rows for stored in store.contracts()}


def test_an_empty_store(store, old):
    with store.reading():
        assert store.query_model() == QueryModel(old, None)
        assert store.edges() == []
        assert store.contracts() == []
        assert store.removed_since(store.state()) == 0
        assert len(store.ids(old.id)) == 0
        assert len(rows(store, old)[0]) == 0
        assert store.held(["a"]) == []


def test_rows_come_back_as_they_were_put(store, old, new, vectors):
    assert put(store, old, vectors, ["a", "b", "c"], seed=1) == 0
    assert put(store, new, vectors, ["d"], seed=2) == 0
    with store.reading():
        ids, found = rows(store, old)
        assert np.array_equal(ids, store.ids(old.id))
        assert (np.diff(ids) > 0).all()
        assert found.dtype == np.float32
        assert np.array_equal(found, vectors(3, 1))
        items = store.items(ids[1:])
        assert items == {
            int(ids[1]): Item("b", "label of b", old.id),
            int(ids[2]): Item("c", "label of c", old.id),
        }
        assert rows_of(store) == {old: 3, new: 1}
        assert store.held(["d", "x", "a"]) == ["d", "a"]
        after, late = rows(store, old, after=int(ids[0]))
        assert np.array_equal(after, ids[1:])
        assert np.array_equal(late, vectors(3, 1)[1:])


def test_a_replaced_row_has_a_new_id_above_all_others(store, old, new, vectors):
    put(store, old, vectors, ["a", "b", "c"])
    before = store.ids(old.id)
    assert put(store, new, vectors, ["c", "d"], seed=3) == 1
    assert np.array_equal(store.ids(old.id), before[:2])
    assert store.ids(new.id).min() > before.max()
    # the highest id is gone; it must not come back
    assert put(store, old, vectors, ["d", "c"], seed=4) == 2
    assert store.ids(old.id).max() > before.max() + 2
    assert rows_of(store) == {old: 4}


def test_the_history_of_states(store, old, vectors):
    states = [store.state()]
    for keys in (["a", "b"], ["b", "c"], ["d"], ["a", "b", "c"]):
        put(store, old, vectors, keys)
        states.append(store.state())
    assert len(set(states)) == 5
    assert [store.removed_since(state) for state in states] == [4, 4, 3, 3, 0]
    assert store.removed_since("") is None
    assert store.removed_since("99-other") is None


def test_an_error_takes_everything_back(store, old, new, make_edge, vectors):
    put(store, old, vectors, ["a"])
    state = store.state()

    def change_and_fail():
        with store.writing():
            store.put(["a", "b"], ["x", "y"], new, vectors(2, 5))
            store.add_edge(make_edge(new, old))
            store.set_query_model(QueryModel(new, None))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        change_and_fail()
    with store.reading():
        assert store.state() == state
        assert rows_of(store) == {old: 1}
        assert store.edges() == []
        assert store.query_model().contract == old
        assert np.array_equal(rows(store, old)[1], vectors(1))


def test_the_query_model_and_edges_are_kept(store, old, new, make_edge, tmp_path):
    with store.writing():
        store.add_edge(make_edge(new, old, 0.4))
        store.add_edge(make_edge(old, new, 0.6))
        store.add_edge(make_edge(new, old, 0.3))
        store.set_query_model(QueryModel(new, tmp_path / "model"))
    with store.reading():
        assert store.query_model() == QueryModel(new, tmp_path / "model")
        found = {(e.from_contract.id, e.to_contract.id): e.threshold for e in store.edges()}
    assert found == {(new.id, old.id): 0.3, (old.id, new.id): 0.6}
