"""Who is let in: nobody without the token, no page of another site, and nothing of it is logged."""

import asyncio
import contextlib
import logging
import re
import subprocess
import sys

import httpx2
import pytest
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Mount

from mixbct.cli.gallery_bulk import serve
from mixbct.errors import ServeError
from mixbct.web import guard
from mixbct.web.app import make_app
from mixbct.web.guard import Sessions
from mixbct.web.server import check_address, read_token

TOKEN = "a token of the tests alone"
PNG = {"content-type": "image/png"}
PAGE = {"accept": "text/html"}


def routes_of(routes: list[BaseRoute]):
    """Yield method and path of every route, those of routers inside as well."""
    for route in routes:
        if isinstance(route, Mount):
            yield "GET", f"{route.path}/style.css"
        else:
            yield from routes_of(getattr(route, "routes", None) or [])
        for method in getattr(route, "methods", None) or []:
            yield method, route.path


def test_nothing_answers_without_the_token(client_of, gallery):
    client = client_of(gallery, token=TOKEN)
    every = sorted({*routes_of(client.app.routes), ("GET", "/nothing")})
    told = {path for _, path in every}
    assert {
        "/",
        "/metrics",
        "/pictures",
        "/v1/openapi.json",
        "/static/style.css",
        "/logout",
    } <= told
    answered = client.app.openapi()["paths"]
    every += [(m.upper(), path) for path, methods in answered.items() for m in methods]
    wrong = [
        {},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer \xff".encode("latin-1")},
        {"cookie": f"mixbct={TOKEN}"},
        {"cookie": "mixbct=9999999999.x.y"},
        {"cookie": "mixbct=..."},
        {"x-csrf-token": TOKEN, "origin": "http://127.0.0.1:8000"},
    ]
    for method, path in every:
        if path == "/healthz":
            continue
        for headers in wrong:
            response = client.request(method, path, headers=headers)
            assert response.status_code == 401, (method, path, headers)
            assert "set-cookie" not in response.headers
            assert response.headers["www-authenticate"] == "Bearer"
    assert client.get("/healthz").json() == {"status": "ok"}
    good = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/v1/status", headers=good).status_code == 200


def test_a_browser_signs_in_and_its_forms_cannot_be_forged(client_of, gallery):
    client = client_of(gallery, token=TOKEN)
    form = client.get("/", headers=PAGE)
    assert (form.status_code, 'type="password"' in form.text) == (401, True)
    assert "sha256-" in form.headers["content-security-policy"]
    assert client.post("/login", data={"token": "no"}, headers=PAGE).status_code == 401
    done = client.post("/login", data={"token": TOKEN}, headers=PAGE, follow_redirects=False)
    assert (done.status_code, done.headers["location"]) == (303, "/")
    cookie = done.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    assert client.cookies.get("mixbct")
    page = client.get("/", headers=PAGE)
    assert page.status_code == 200
    (number,) = re.findall(r'name="csrf" content="(\w+)"', page.text)
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]

    def remove(**headers):
        return client.delete("/v1/items", params={"key": "class0/0.png"}, headers=headers)

    assert remove().status_code == 403
    assert remove(**{"x-csrf-token": number[::-1]}).status_code == 403
    other = Sessions(TOKEN)
    assert remove(**{"x-csrf-token": other.forgery_token(other.new_cookie())}).status_code == 403
    assert gallery.status().rows == 12
    assert remove(**{"x-csrf-token": number}).status_code == 200
    assert client.post("/logout", headers={"x-csrf-token": number}).status_code == 204
    assert client.get("/").status_code == 401


def test_a_cookie_ends(monkeypatch):
    sessions = Sessions(TOKEN)
    cookie = sessions.new_cookie()
    sessions.admit("GET", Headers(), cookie)
    monkeypatch.setattr("mixbct.web.guard.time.time", lambda: 4e9)
    with pytest.raises(ServeError, match="token"):
        sessions.admit("GET", Headers(), cookie)


def test_a_longer_cookie_of_ones_own_making_is_none():
    sessions = Sessions(TOKEN)
    until, rest = sessions.new_cookie().split(".", 1)
    for forged in (f"{int(until) + 1}.{rest}", f"{until}.{rest[:-1]}", f"{until}.{rest}.", ""):
        with pytest.raises(ServeError):
            sessions.admit("GET", Headers(), forged)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "127.8.9.1:8000"}, 200),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:8000"}, 403),
        ({"host": "evil.example@127.0.0.1.evil.example"}, 403),
        ({"host": "[::1"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": "null"}, 403),
        ({"x-forwarded-for": "203.0.113.9"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_without_a_token_no_other_site_may_ask(client, headers, status):
    """DNS rebinding comes by another Host, a forged form with another Origin, or none to show."""
    response = client.post("/v1/upgrade/rollback", json={"switch": 5}, headers=headers)
    assert response.status_code == (422 if status == 200 else status)
    # a link to here is followed, an image of another page is not given
    kept = status == 200 or "sec-fetch-site" in headers
    asked = client.get("/v1/status", headers={**headers, "sec-fetch-mode": "navigate"})
    assert asked.status_code == (200 if kept else 403)
    asked = client.get("/v1/status", headers={**headers, "sec-fetch-mode": "no-cors"})
    assert asked.status_code == status


def test_nothing_secret_is_logged(client_of, gallery, made, caplog):
    client = client_of(gallery, token=TOKEN)
    with caplog.at_level(logging.INFO, "mixbct.web"):
        client.post(
            "/v1/search?contract=old&key=person-17",
            json={"vectors": [0.123456] * 8},
            headers={"authorization": f"Bearer {TOKEN}"},
        )
        client.post("/login", data={"token": TOKEN})
        client.get(f"/v1/{TOKEN}?token={TOKEN}")
    assert caplog.messages[0].startswith('{"time": ')
    assert '"route": "/v1/search", "status": 200' in caplog.messages[0]
    for secret in (TOKEN, "0.123456", "person-17", "mixbct="):
        assert secret not in caplog.text


def test_addresses_and_tokens(tmp_path, monkeypatch):
    for host in ("127.0.0.1", "localhost", "::1", "127.8.9.1"):
        check_address(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org", ""):
        with pytest.raises(ServeError, match="--token-file"):
            check_address(host, None)
        check_address(host, TOKEN)
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file) == TOKEN
    with pytest.raises(ServeError, match="no token at"):
        read_token(tmp_path / "missing")
    monkeypatch.setenv("MIXBCT_TOKEN", "from the environment")
    assert (read_token(None), read_token(file)) == ("from the environment", TOKEN)
    for weak in ("", "short", "ümläut" * 4):
        with pytest.raises(ServeError, match="16 or more"):
            Sessions(weak)


def test_a_body_that_does_not_come_ends(serving_of, gallery, monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 0.05)
    app = make_app(serving_of(gallery))
    headers = [(b"host", b"localhost"), (b"content-type", b"image/png")]
    scope = {"type": "http", "method": "POST", "path": "/v1/search", "headers": headers}
    sent = []

    async def ask():
        given = iter([{"type": "http.request", "body": b"x", "more_body": True}])

        async def receive():
            if (message := next(given, None)) is not None:
                return message
            return await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        await app({**scope, "query_string": b"", "app": app}, receive, send)

    asyncio.run(ask())
    assert sent[0]["status"] == 408


def test_without_its_packages_the_verb_names_them(gallery, monkeypatch):
    monkeypatch.setitem(sys.modules, "mixbct.web.app", None)
    with pytest.raises(ServeError, match=r"pip install 'mixbct\[serve\]'"):
        serve(gallery.place)


def test_a_server_of_its_own_lets_searches_finish(gallery, made, tmp_path):
    """Started by hand: refused elsewhere without a token; a stop answers what was asked, exit 3."""
    command = [sys.executable, "-m", "mixbct", "gallery", "serve", gallery.place, "--port", "0"]
    refused = subprocess.run([*command, "--host", "0.0.0.0"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "--token-file" in refused.stderr
    with (
        subprocess.Popen(
            [*command, "--images", str(made.folder / "data")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as server,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(server.kill)  # whatever a check says
        url = server.stdout.readline().split()[-1]
        with httpx2.Client(base_url=url, timeout=60) as http, httpx2.Client(base_url=url) as beside:

            def parts():
                """Give a body in two parts, and tell the server to stop between them."""
                image = made.image("class1/2.png")
                yield image[:100]
                assert beside.get("/healthz").status_code == 200
                server.terminate()
                yield image[100:]

            found = http.post("/v1/search", content=parts(), headers=PNG)
        assert found.json()["queries"][0]["hits"][0]["key"] == "class1/2.png"
        assert server.wait(60) == 3
        said = server.stderr.read()
    assert "Traceback" not in said
    assert '"route": "/v1/search", "status": 200' in said
