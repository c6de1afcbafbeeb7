"""Switches, the way back, and searches while they happen."""

import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

from mixbct.errors import ContractError, GalleryError, SwitchedError
from mixbct.features.bridged import through
from mixbct.gallery import Gallery
from mixbct.gallery.records import Batch
from mixbct.gallery.stores import SCHEMES
from mixbct.schemas.gate import Edge


def enrol(gallery, keys, rows, contract, label="x", replace=False):
    return gallery.enrol(keys, [label] * len(keys), rows, contract, replace)


def keys_of(gallery, contract, queries, k=100):
    return [hit.key for hit in gallery.search(queries, contract, k=k).of(0)]


def contracts_of(gallery):
    return {each.contract.name: each.rows for each in gallery.status().contracts}


@pytest.fixture
def upgraded(gallery, old, new, make_edge, vectors):
    """Rows a to d of the old model; the new one replaced b, the old one c, and e and f are new."""
    enrol(gallery, "abcd", vectors(4, 1), old, "then")
    gallery.switch(new, make_edge(new, old, seed=1))
    enrol(gallery, "b", vectors(1, 2), new, "now", replace=True)
    enrol(gallery, "c", vectors(1, 3), old, "now", replace=True)
    enrol(gallery, "ef", vectors(2, 4), new, "now")
    gallery.remove(["d"])
    return gallery


def test_a_rollback_names_what_it_would_lose(upgraded, old, new, vectors):
    before = upgraded.status()
    with pytest.raises(ContractError, match=r"2 items that came since .* by old .*\(e, f\)") as no:
        upgraded.rollback()
    for remedy in ("--replace", "--edge", "--leave-out"):
        assert remedy in str(no.value)
    assert upgraded.status() == before
    assert len(keys_of(upgraded, new, vectors(1))) == 5


def test_a_rollback_gives_replaced_items_their_old_vectors_back(upgraded, old, new, vectors):
    done = upgraded.rollback(leave_out=True)
    assert (done.query_model, done.before) == (old, new)
    assert (done.given_back, done.left_out) == (1, ("e", "f"))
    found = upgraded.search(vectors(4, 1), old, k=5)
    by_key = {hit.key: hit for hit in found.of(1)}
    assert sorted(by_key) == ["a", "b", "c"]
    assert (found.of(1)[0].key, found.of(1)[0].label) == ("b", "then")
    assert found.of(1)[0].score == pytest.approx(1, abs=1e-6)
    assert by_key["c"].label == "now"  # a new picture by the model that is gone back to
    assert upgraded.faults() == []
    with pytest.raises(SwitchedError, match="embedded by new"):
        upgraded.search(vectors(1), new)
    with pytest.raises(GalleryError, match="nothing to go back to"):
        upgraded.rollback()


def test_rows_stay_where_an_edge_leads_to_them(upgraded, old, new, make_edge, vectors):
    done = upgraded.rollback(make_edge(old, new, 0.1, seed=3))
    assert done.left_out == ()
    assert contracts_of(upgraded) == {"old": 3, "new": 2}
    assert sorted(keys_of(upgraded, old, vectors(1))) == list("abcef")


def test_a_rollback_can_be_undone_by_the_same_switch(upgraded, old, new, vectors):
    upgraded.rollback(leave_out=True)
    upgraded.switch(new)  # over the recorded edge
    assert sorted(keys_of(upgraded, new, vectors(1))) == list("abc")
    assert upgraded.rollback().given_back == 0


def test_the_way_back_goes_over_every_switch(
    gallery, old, new, make_contract, make_edge, vectors, tmp_path
):
    newest = make_contract("newest")
    first, second = make_edge(new, old, 0.1, seed=1), make_edge(new, old, 0.2, seed=2)
    enrol(gallery, "ab", vectors(2, 1), old)
    gallery.switch(new, first)
    gallery.switch(new, second, model=tmp_path)  # a better bridge for the same model
    enrol(gallery, "a", vectors(1, 2), new, replace=True)
    gallery.switch(newest, make_edge(newest, old), make_edge(newest, new))
    gallery.switch(newest, model=tmp_path / "moved")  # no switch of the model: nothing to undo
    enrol(gallery, "ab", vectors(2, 3), newest, replace=True)
    assert [edge.threshold for edge in gallery.status().edges if edge.from_contract == new] == [0.2]

    assert gallery.rollback().given_back == 2
    assert gallery.query_model().contract == new
    assert gallery.query_model().folder == tmp_path
    assert contracts_of(gallery) == {"old": 1, "new": 1}
    # a was enrolled by the model that is gone back to, and stays
    assert gallery.rollback().given_back == 0
    assert contracts_of(gallery) == {"old": 1, "new": 1}
    assert gallery.query_model().folder is None
    (edge,) = [edge for edge in gallery.status().edges if edge.from_contract == new]
    assert edge.threshold == 0.1
    done = gallery.rollback()
    assert (done.query_model, done.given_back) == (old, 1)
    assert contracts_of(gallery) == {"old": 2}
    assert [s.stands_for for s in switches(gallery)] == [1, 2, 3, 4, 4, 3, 2, 1]
    # from here the way back to what was undone is a switch like any other
    gallery.switch(new, second)
    gallery.switch(newest)
    assert gallery.rollback().query_model == new
    assert gallery.rollback().query_model == old


def switches(gallery):
    with gallery._store.read() as snapshot:
        return snapshot.switches()


def test_nothing_of_what_was_is_lost_before_a_prune(upgraded, old, vectors):
    upgraded.rollback(leave_out=True)
    with upgraded._store.read() as snapshot:
        labels = [[version.label for version in snapshot.versions(key)] for key in "abcdef"]
    assert labels == [
        ["then"],
        ["then", "now", "then"],
        ["then", "now"],
        ["then"],
        ["now"],
        ["now"],
    ]
    assert upgraded.prune() == 6
    with upgraded._store.read() as snapshot:
        assert [len(snapshot.versions(key)) for key in "abcdef"] == [1, 1, 1, 0, 0, 0]
    assert sorted(keys_of(upgraded, old, vectors(1))) == ["a", "b", "c"]
    with pytest.raises(GalleryError, match="nothing to go back to"):
        upgraded.rollback()


def test_a_client_that_missed_the_switch_is_told(gallery, old, new, make_edge, vectors):
    enrol(gallery, "a", vectors(1), old)
    gallery.switch(new, make_edge(new, old))
    with pytest.raises(SwitchedError, match=r"by old .* query model is new .*, since 20.*embed"):
        gallery.search(vectors(1), old)
    enrol(gallery, "b", vectors(1, 2), old)  # an old client may still enrol: an edge leads there
    assert sorted(keys_of(gallery, new, vectors(1))) == ["a", "b"]


def test_what_is_taken_out_is_all_or_nothing(gallery, old, vectors):
    enrol(gallery, "abc", vectors(3), old)
    with pytest.raises(GalleryError, match=r"1 of 2 keys are not in the gallery \(z\)"):
        gallery.remove(["a", "z"])
    assert gallery.remove(["c", "a"]) == 2
    assert keys_of(gallery, old, vectors(1)) == ["b"]


def batches(old, vectors, n=4):
    for i in range(n):
        keys = [f"{i}-{j}" for j in range(5)]
        yield Batch(keys, [None, *keys[1:]], 3 * vectors(5, i), old)


def test_an_import_that_is_run_again_goes_on(gallery, old, vectors):
    def stops():
        yield from batches(old, vectors, 2)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        gallery.import_rows(stops())
    assert gallery.status().rows == 10
    ids = set(gallery.search(vectors(1), old, k=20).ids[0])
    done = gallery.import_rows(batches(old, vectors))
    assert (done.added, done.replaced, done.unchanged, done.rows) == (10, 0, 10, 20)
    assert ids < set(gallery.search(vectors(1), old, k=20).ids[0])  # which stayed as they were
    again = gallery.import_rows(batches(old, vectors))
    assert (again.added, again.replaced, again.unchanged, again.rows) == (0, 0, 20, 20)


@pytest.mark.parametrize("change", ["label", "vector", "contract"])
def test_an_import_says_where_a_key_means_another_row(
    gallery, old, new, make_edge, vectors, change
):
    gallery.switch(new, make_edge(new, old))
    gallery.import_rows(batches(old, vectors))
    (batch,) = batches(old, vectors, 1)
    other = {
        "label": batch._replace(labels=["y", *batch.labels[1:]]),
        "vector": batch._replace(vectors=np.vstack([vectors(1, 99), batch.vectors[1:]])),
        "contract": Batch(batch.keys[:1], batch.labels[:1], batch.vectors[:1], new),
    }[change]
    with pytest.raises(GalleryError, match=r"1 of 1 keys are in the gallery already \(0-0\)"):
        gallery.import_rows([other])
    done = gallery.import_rows([other], replace=True)
    assert (done.added, done.replaced) == (0, 1)
    assert done.unchanged == len(other.keys) - 1
    assert gallery.status().rows == 20


def test_a_url_that_no_store_answers_to(tmp_path, old, monkeypatch):
    for made in (lambda: Gallery.open("redis://here/x"), lambda: Gallery.create("redis://h", old)):
        with pytest.raises(GalleryError, match=r"redis://… names no store"):
            made()
    monkeypatch.setitem(SCHEMES, "file", "mixbct.gallery.sqlite:Sqlite")
    monkeypatch.setattr(
        "mixbct.gallery.sqlite.Sqlite.__init__",
        lambda self, place, timeout: (_ for _ in ()).throw(OSError(place)),
    )
    with pytest.raises(OSError, match="file://x"):
        Gallery.open("file://x")


# searches in four processes during a hundred switches

KEYS = [f"k{i:02}" for i in range(40)]
AGAIN = KEYS[5:10]


def unit(seed, n, dim=8):
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def states(edges):
    """Return, by model, what a search may find: the scores of every key, and the threshold."""
    queries, stored, again = unit(1, 3), unit(2, 40), unit(3, 5)
    of_old = {"old": [(dict(zip(KEYS, (queries @ stored.T).T, strict=True)), None)], "new": []}
    for edge in edges:
        across = through(edge.bridge.query, queries) @ through(edge.bridge.gallery, stored).T
        found = dict(zip(KEYS, across.T, strict=True))
        of_old["new"].append((found, edge.threshold))
        mixed = found | dict(zip(AGAIN, (queries @ again.T).T, strict=True))
        of_old["new"].append((mixed, edge.threshold))
    return of_old


def four_searchers(folder):
    """Fork four processes that search, since importing takes longer than what is tested here."""
    children = []
    for number in range(4):
        if not (child := os.fork()):
            code = 1
            try:
                search_until_told(folder, number)
                code = 0
            finally:
                if code:
                    traceback.print_exc()
                os._exit(code)
        children.append(child)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))


def search_until_told(folder, number):
    """Search until the file `done` is there; every search is of one state, or refused."""
    edges = [Edge.model_validate_json((folder / f"{i}.json").read_text()) for i in range(2)]
    expected, queries, seen = states(edges), unit(1, 3), {}
    with Gallery.open(folder / "gallery") as gallery:
        (folder / f"ready{number}").touch()
        while not (folder / "done").exists():
            contract = gallery.query_model().contract
            try:
                hits = gallery.search(queries, contract, k=100)
            except SwitchedError:
                seen["refused"] = seen.get("refused", 0) + 1
                continue
            found = [{hit.key: hit for hit in hits.of(q)} for q in range(3)]
            agree = [
                place
                for place, (scores, bound) in enumerate(expected[contract.name])
                if all(
                    each.keys() == scores.keys()
                    and all(abs(each[key].score - scores[key][q]) < 1e-5 for key in scores)
                    for q, each in enumerate(found)
                )
                if all(
                    hit.accepted == (hit.score > bound) or abs(hit.score - bound) < 1e-5
                    for hit in found[0].values()
                    if hit.accepted is not None
                )
            ]
            assert len(agree) == 1, (contract.name, agree)
            name = f"{contract.name} {agree[0]}"
            seen[name] = seen.get(name, 0) + 1
    (folder / f"seen{number}").write_text(json.dumps(seen))


def test_searches_in_four_processes_during_a_hundred_switches(tmp_path, old, new, make_edge):
    edges = [make_edge(new, old, 0.25 * (1 + i), seed=i) for i in range(2)]
    for i, edge in enumerate(edges):
        (tmp_path / f"{i}.json").write_text(edge.to_json())
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path;"
        f"from test_switching import four_searchers; four_searchers(Path({str(tmp_path)!r}))"
    )
    with Gallery.create(tmp_path / "gallery", old) as gallery:
        enrol(gallery, KEYS, unit(2, 40), old)
        searchers = subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        while searchers.poll() is None and len(list(tmp_path.glob("ready*"))) < 4:
            time.sleep(0.01)
        for i in range(50):
            gallery.switch(new, edges[i % 2])
            enrol(gallery, AGAIN, unit(3, 5), new, replace=True)
            assert gallery.rollback().given_back == 5
        (tmp_path / "done").touch()
        assert searchers.wait(timeout=60) == 0
        assert len(switches(gallery)) == 101
        assert gallery.faults() == []
    seen = [json.loads((tmp_path / f"seen{number}").read_text()) for number in range(4)]
    assert all(sum(each.values()) > 20 for each in seen)
    assert {name.split()[0] for each in seen for name in each} >= {"old", "new"}
