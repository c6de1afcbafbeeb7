"""The API: the right answers, by the same service as the command line's, and named refusals."""

import json
import struct
import threading
import time

import numpy as np
import pytest
from fastapi.testclient import TestClient

from mixbct.errors import DiskFullError, UnavailableError
from mixbct.gallery import Gallery
from mixbct.web.app import make_app

KEY = "class1/2.png"
PNG = {"content-type": "image/png"}


def keys_of(answer, query=0):
    return [hit["key"] for hit in answer["queries"][query]["hits"]]


def test_an_image_a_key_and_a_vector_find_the_same(client, made, gallery):
    vector = made.vectors["old"][made.source.keys().index(KEY)]
    expected = [h.key for h in gallery.search(vector[None], made.old.contract, k=4).of(0)]
    assert expected[0] == KEY
    of = {"contract": made.old.contract.id, "k": 4}
    raw = {"content-type": "application/octet-stream"}
    twice = np.stack([vector, vector])
    found = [
        client.post("/v1/search?k=4", content=made.image(KEY), headers=PNG),
        client.get("/v1/search", params={"key": KEY, "k": 4}),
        client.post("/v1/search", params=of, json={"vectors": vector.tolist()}),
        client.post("/v1/search", params=of, json={"vectors": twice.tolist()}),
        client.post("/v1/search", params=of, content=twice.astype("<f4").tobytes(), headers=raw),
    ]
    assert [each.status_code for each in found] == [200] * 5
    for each in found:
        answer = each.json()
        assert keys_of(answer) == keys_of(answer, -1) == expected
        assert answer["query_model"]["name"] == "old"
        assert answer["queries"][0]["hits"][0]["score"] == pytest.approx(1, abs=1e-3)
        assert (answer["both"], answer["old"], answer["exact"]) == (False, None, True)
    assert [len(each.json()["queries"]) for each in found] == [1, 1, 1, 2, 2]


def test_switch_beside_both_and_back(client, made, gallery, upgrade):
    before = client.get("/v1/search", params={"key": KEY}).json()
    planned = client.post(
        "/v1/upgrade/plan", json={"model": "new", "edges": [made.edge.model_dump(mode="json")]}
    ).json()
    assert (planned["before"]["name"], planned["query_model"]["name"]) == ("old", "new")
    assert gallery.query_model().contract == made.old.contract
    assert upgrade(client).status_code == 200

    # the new model's, decided; the old model's beside it is what it found before
    how = {"k": 5, "beside": True, "far": 0.1}
    found = client.post("/v1/search", params=how, content=made.image(KEY), headers=PNG).json()
    new = made.vectors["new"][[made.source.keys().index(KEY)]]
    alone = gallery.search(new, made.new.contract, 5, 0.1).of(0)
    assert keys_of(found) == [hit.key for hit in alone]
    assert [hit["accepted"] for hit in found["queries"][0]["hits"]] == [h.accepted for h in alone]
    assert keys_of(found["old"]) == keys_of(before)
    assert found["old"]["query_model"]["name"] == "old"
    # a stored item of the old model: by its picture, and by its vector
    by_key = client.get("/v1/search", params={**how, "key": KEY}).json()
    assert (keys_of(by_key), keys_of(by_key["old"])) == (keys_of(found), keys_of(found["old"]))

    old = made.vectors["old"][[made.source.keys().index(KEY)]]
    mixed = gallery.search(new, made.new.contract, 5, None, (old, made.old.contract)).of(0)
    for given in (
        client.post("/v1/search?both=true", content=made.image(KEY), headers=PNG),
        client.post(
            "/v1/search",
            params={"both": True, "contract": made.new.contract.id},
            json={"vectors": new.tolist(), "old_vectors": old.tolist()},
        ),
    ):
        hits = given.json()["queries"][0]["hits"]
        assert given.json()["both"] is True
        assert [hit["key"] for hit in hits] == [hit.key for hit in mixed]
        assert [h["score"] for h in hits] == pytest.approx([h.score for h in mixed], abs=1e-4)

    # an enrolled image is of the new model; a rollback names it, and only undoes what was seen
    done = client.post(
        "/v1/items", params={"key": "mine", "label": "x"}, content=made.image(KEY), headers=PNG
    )
    assert done.json()["contract"]["name"] == "new"
    rows = {
        c["contract"]["name"]: c["rows"]
        for c in client.get("/v1/status").json()["gallery"]["contracts"]
    }
    assert rows == {"old": 12, "new": 1}
    for asked, says in (({"switch": 1}, "switch 2 came since"), ({}, "mine")):
        refused = client.post("/v1/upgrade/rollback", json=asked)
        assert refused.status_code == 409
        assert says in refused.json()["detail"]
    back = client.post("/v1/upgrade/rollback", json={"switch": 2, "leave_out": True}).json()
    assert (back["query_model"]["name"], back["left_out"]) == ("old", ["mine"])
    assert keys_of(client.get("/v1/search", params={"key": KEY}).json()) == keys_of(before)


def test_both_queries_by_default_and_their_cost(client_of, gallery, made, upgrade):
    client = client_of(gallery, both=True)
    assert client.post("/v1/search", content=made.image(KEY), headers=PNG).json()["both"] is False
    assert client.get("/v1/status").json()["both"]["on"] is False
    upgrade(client)
    assert client.post("/v1/search", content=made.image(KEY), headers=PNG).json()["both"] is True
    off = client.post("/v1/search?both=false", content=made.image(KEY), headers=PNG).json()
    assert off["both"] is False
    both = client.get("/v1/status").json()["both"]
    assert (both["on"], both["old_model"]["name"]) == (True, "old")
    assert both["query_seconds"] > 0 < both["old_seconds"]
    # vectors alone of the new model cannot be mixed: by default they are not, asked for they are
    # refused
    of = {"contract": made.new.contract.id}
    body = {"vectors": made.vectors["new"][0].tolist()}
    assert client.post("/v1/search", params=of, json=body).json()["both"] is False
    refused = client.post("/v1/search", params={**of, "both": True}, json=body)
    assert (refused.status_code, "old_vectors" in refused.json()["detail"]) == (422, True)


def test_items_come_and_go(client, made, gallery):
    one = made.vectors["old"][:1]
    of = {"contract": "old", "key": "again/ä ?&#.png"}
    assert client.post("/v1/items", params=of, json={"vectors": one.tolist()}).status_code == 200
    again = client.post("/v1/items", params=of, json={"vectors": one.tolist()})
    assert (again.status_code, "already" in again.json()["detail"]) == (422, True)
    done = client.post("/v1/items", params={**of, "replace": True}, json={"vectors": one.tolist()})
    assert (done.json()["replaced"], done.json()["rows"]) == (1, 13)
    assert client.delete("/v1/items", params={"key": [of["key"], "nobody"]}).status_code == 422
    assert client.delete("/v1/items", params={"key": of["key"]}).json()["removed"] == 1
    assert gallery.status().rows == 12


def test_what_is_refused_says_why(client, made):
    def post(body, kind="application/json", **params):
        return client.post(
            "/v1/search", params=params, content=body, headers={"content-type": kind}
        )

    raw, of = "application/octet-stream", {"contract": made.old.contract.id}
    whole = json.dumps({"vectors": [1.0] * 8})
    nan = struct.pack("<8f", *[float("nan")] * 8)
    cases = [
        (post(whole), 422, "contract"),
        (post(whole, contract="nobody"), 409, "no contract 'nobody'"),
        (post(whole, "text/plain", **of), 415, "text/plain"),
        (post(b"", raw, **of), 422, "0 bytes"),
        (post(b"x" * 33, raw, **of), 422, "33 bytes"),
        (post(nan, raw, **of), 422, "NaN"),
        (post(b"\0" * 32, raw, **of), 422, "zero"),
        (post(json.dumps({"vectors": [1.0] * 9}), **of), 422, "9 dimensions"),
        (post(json.dumps({"vectors": ["1"] * 8}), **of), 422, "list of numbers"),
        (post(json.dumps({"vectors": [True] * 8}), **of), 422, "list of numbers"),
        (post(json.dumps({"vectors": [[1.0], [1.0, 2.0]]}), **of), 422, "list of numbers"),
        (post('{"vectors": [1e400, 1, 1, 1, 1, 1, 1, 1]}', **of), 422, ""),
        (post("[" * 100_000, **of), 413, "too many lists"),
        (post('{"vectors":' + "[" * 900 + "]" * 900 + "}", **of), 422, "list of numbers"),
        (
            post(json.dumps({"vectors": [1.0] * 8, "old_vectors": [[1.0], [2.0]]}), **of),
            422,
            "2 old",
        ),
        (post('{"vectors":[' + "[]," * 9999 + "[]]}", **of), 413, "too many lists"),
        (post(json.dumps({"vectors": [[1.0] * 8] * 101}), **of, k=100), 413, "101 queries × 100"),
        (post(whole, **of, k=0), 422, "k"),
        (post(whole, **of, far=2), 422, "far"),
        (post(whole, **of, far=0.01), 422, "false-accept rate of 0.01"),
        (post(b"\x89PNG no", "image/png"), 422, "not a readable image"),
        (client.get("/v1/search", params={"key": "nobody"}), 422, "no item 'nobody'"),
        (client.get("/v1/search"), 422, "key"),
        (client.post("/v1/upgrade/apply", json={"model": "../models/new"}), 404, "no model"),
        (client.post("/v1/upgrade/apply", json={"model": "new"}), 409, "no passed gate"),
        (client.post("/v1/upgrade/apply", json={}), 422, "an edge that leads from it"),
        (client.post("/v1/upgrade/rollback", json={}), 422, "nothing to go back to"),
        (client.post("/v1/upgrade/rollback", content="[" * 10**5, headers=PNG), 422, ""),
        (client.get("/pictures?key=../../etc/passwd"), 404, "no picture"),
        (client.get("/static/../app.py"), 404, ""),
        (client.get("/static/%2e%2e%2fapp.py"), 404, ""),
        (client.get("/nothing"), 404, "Not Found"),
        (client.put("/v1/search"), 405, "Method Not Allowed"),
    ]
    for number, (response, status, says) in enumerate(cases):
        assert response.status_code == status, (number, response.text)
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["status"] == status
        assert says in problem["detail"], (number, problem)


def test_searches_that_meet_go_together_and_fail_alone(client, made, monkeypatch):
    """Many at once give each its own answer; a bad one among them fails by itself."""
    sizes, search = [], Gallery.search

    def slow(self, vectors, *others):
        sizes.append(len(vectors))
        time.sleep(0.05)
        return search(self, vectors, *others)

    monkeypatch.setattr(Gallery, "search", slow)
    answers = {}

    def ask(row):
        vector = made.vectors["old"][row] if row >= 0 else np.zeros(8, np.float32)
        of = {"contract": made.old.contract.id, "k": 1}
        answers[row] = client.post("/v1/search", params=of, json={"vectors": vector.tolist()})

    threads = [threading.Thread(target=ask, args=(row,)) for row in range(-1, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.pop(-1).status_code == 422
    assert {row: keys_of(each.json()) for row, each in answers.items()} == {
        row: [key] for row, key in enumerate(made.source.keys())
    }
    assert max(sizes) > 1


def test_hits_are_counted_on_request_alone(client_of, serving_of, gallery, monkeypatch):
    counted, full = [], [True]

    def store(counts):
        if full[0]:
            raise DiskFullError("no space")
        counted.append(dict(counts))

    monkeypatch.setattr("mixbct.web.app.FLUSH_SECONDS", 0.02)
    app = make_app(serving_of(gallery, store))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for _ in range(3):
            client.get("/v1/search", params={"key": KEY, "k": 1})
        assert client.get("/v1/status").json()["counts_hits"] is True
        time.sleep(0.2)
        full[0] = False  # what could not be stored is, later
        while not counted:
            time.sleep(0.01)
        monkeypatch.setattr("mixbct.web.app.FLUSH_SECONDS", 60)
        time.sleep(0.1)
        client.get("/v1/search", params={"key": KEY, "k": 1})
    assert counted == [{KEY: 3}, {KEY: 1}]  # the rest at the stop
    client = client_of(gallery)
    client.get("/v1/search", params={"key": KEY})
    assert client.get("/v1/status").json()["counts_hits"] is False


def test_a_fault_is_no_traceback(client, monkeypatch):
    def fail(*_):
        raise RuntimeError("secret inside")

    def unreachable(*_):
        raise UnavailableError("postgresql://somebody@secret/ cannot be reached")

    monkeypatch.setattr(Gallery, "status", fail)
    monkeypatch.setattr(Gallery, "query_model", unreachable)
    health = client.get("/healthz")  # it answers without a token, and says no more than that
    assert (health.status_code, health.json()["detail"]) == (503, "the gallery cannot be read")
    response = client.get("/v1/status")
    assert response.status_code == 500
    assert "RuntimeError" in response.text
    assert "secret" not in response.text


def test_openapi_names_every_route_of_the_api(client):
    told = client.get("/v1/openapi.json").json()
    assert set(told["paths"]) == {
        "/v1/status",
        "/v1/search",
        "/v1/items",
        "/v1/upgrade/plan",
        "/v1/upgrade/apply",
        "/v1/upgrade/rollback",
    }
    assert set(told["paths"]["/v1/search"]["post"]["requestBody"]["content"]) == {
        "image/*",
        "application/json",
        "application/octet-stream",
    }


def test_metrics_and_pictures(client, made):
    client.get("/v1/search", params={"key": KEY})
    told = client.get("/metrics").text
    assert 'mixbct_requests_total{method="GET",route="/v1/search",status="200"} 1.0' in told
    assert f'mixbct_rows{{contract="{made.old.contract}"}} 12.0' in told
    picture = client.get("/pictures", params={"key": KEY})
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["embedded", "postgres"])
def test_two_servers_and_a_switch_between(kind, request, made, tmp_path, client_of, upgrade):
    """One store, two servers: the second one's old clients are told, its images are followed."""
    place = tmp_path / "shared"
    if kind == "postgres":
        place = request.getfixturevalue("postgres_url")
    with Gallery.create(place, made.old.contract, made.models / "old") as one:
        made.fill(one)
        with Gallery.open(place) as other:
            first, second = client_of(one), client_of(other)
            of = {"contract": made.old.contract.id}
            body = {"vectors": made.vectors["old"][0].tolist()}
            image = {"content": made.image(KEY), "headers": PNG}
            assert second.post("/v1/search", params=of, json=body).status_code == 200
            found = second.post("/v1/search", **image).json()
            assert found["query_model"]["name"] == "old"
            assert upgrade(first).status_code == 200
            told = second.post("/v1/search", params=of, json=body)
            assert (told.status_code, told.json()["title"]) == (409, "SwitchedError")
            assert "new" in told.json()["detail"]
            found = second.post("/v1/search", **image).json()
            assert found["query_model"]["name"] == "new"
            assert first.post("/v1/search", **image).json()["queries"] == found["queries"]
            assert first.post("/v1/upgrade/rollback", json={}).status_code == 200
            assert second.post("/v1/search", params=of, json=body).status_code == 200
