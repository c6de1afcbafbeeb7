"""A thousand hostile uploads and bodies: no crash, no file left, bounded memory."""

import contextlib
import io
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixbct.web import guard, server

KINDS = ("image/png", "image/jpeg", "application/json", "application/octet-stream")
KEYS = ("../../etc/passwd", "/etc/passwd", "a\0b", "x" * 20_000, "%2e%2e/", "\udcff", "‮gpj", "")


def png(width, height, depth=8, colour=2, data=b""):
    """Return a PNG that says it is so large; what is in it is `data`."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(data, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks
    )


def samples(made):
    """Return whole images of every format, bombs and polyglots."""
    found = [made.image("class1/2.png")]
    for kind in ("JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM", "ICO", "PDF", "MPO"):
        file = io.BytesIO()
        Image.fromarray(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)).save(file, kind)
        found.append(file.getvalue())
    found += [
        png(100_000, 100_000),
        png(2**31 - 1, 2**31 - 1),
        png(8000, 8000, data=bytes(8000 * 24_001)),  # 192 MB out of 0.2
        png(0, 0),
        png(32, 32, data=bytes(10)),
        b"GIF89a" + found[0],
        found[0] + b"PK\x03\x04" + b"\0" * 100,
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file",
        b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (9,)}\n",
        b"\x80\x04cos\nsystem\n(S'touch /tmp/pwned'\ntR.",
        b'{"vectors": [[' + b"1," * 10**5 + b"1]]}",
        b'{"vectors": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"vectors": {"vectors": ' * 400 + b"1" + b"}}" * 400,
        b'{"vectors": [1e999, NaN]}',
        b'{"model": "' + b"../" * 100 + b'etc", "edges": [{"from_contract": {}}]}',
        b'{"switch": ' + b"9" * 10_000 + b"}",
        b"",
        b"\0" * 10**6,
        b"\xff\xfe" * 1000,
    ]
    return found


def test_a_thousand_hostile_bodies(client, made, gallery, monkeypatch):
    rng = np.random.default_rng(13)
    every = samples(made)
    places = Path(), Path(tempfile.gettempdir())
    before = {file for place in places for file in place.iterdir()}

    def no_file(*_, **__):
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr(tempfile, "_get_candidate_names", no_file)
    client.get("/v1/search", params={"key": "class0/0.png"})
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    routes = ("/v1/search", "/v1/items", "/v1/upgrade/apply", "/v1/upgrade/rollback", "/login")
    seen = set()
    for number in range(1000):
        body = bytearray(every[number % len(every)])
        if number >= len(every) * len(KINDS) and body:  # then with damage
            for place in rng.integers(0, len(body), rng.integers(1, 6)):
                body[place] = rng.integers(0, 256)
            if rng.random() < 0.3:
                body = body[: rng.integers(0, len(body))]
        kind = KINDS[number // len(every) % len(KINDS)]
        params = {"k": 3}
        if kind.startswith("application"):
            params["contract"] = "old"
        route = routes[0] if rng.random() < 0.7 else routes[rng.integers(len(routes))]
        if route == "/v1/items":
            params["key"] = KEYS[rng.integers(len(KEYS))].encode("utf-8", "surrogateescape")
        response = client.post(
            route, params=params, content=bytes(body), headers={"content-type": kind}
        )
        seen.add(response.status_code)
        assert response.status_code < 500, (number, route, kind, bytes(body[:50]), response.text)
    monkeypatch.undo()
    assert {200, 401, 413, 422} <= seen
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used
    assert grown < 600_000, f"{grown} kB"  # 32 million pixels, and what decodes them
    new = {file.name for place in places for file in place.iterdir()} - {f.name for f in before}
    assert not [name for name in new if "pwned" in name or "upload" in name]
    assert gallery.faults() == []
    found = client.get("/v1/search", params={"key": "class1/2.png", "k": 1}).json()
    assert found["queries"][0]["hits"][0]["key"] == "class1/2.png"


@pytest.mark.parametrize("key", [key for key in KEYS if key])
def test_names_are_names_alone(client, made, key):
    """A key that looks like a path is a key, or refused: nothing is opened by it."""
    given = {"key": key.encode("utf-8", "surrogateescape")}
    body = {"content": made.image("class0/0.png"), "headers": {"content-type": "image/png"}}
    status = client.post("/v1/items", params=given, **body).status_code
    assert status in (200, 422)
    assert client.get("/pictures", params=given).status_code == 404
    page = client.get("/v1/search", params=given, headers={"accept": "text/html"})
    assert page.status_code == status
    assert "\u202e" not in page.text
    assert client.delete("/v1/items", params=given).status_code == status


def test_markup_in_names_is_text(client, made):
    bad = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    of = {"contract": "old", "key": bad, "label": bad}
    vector = {"vectors": made.vectors["old"][0].tolist()}
    assert client.post("/v1/items", params=of, json=vector).status_code == 200
    headers = {"accept": "text/html"}
    found = client.get("/v1/search", params={"key": bad}, headers=headers).text
    missing = client.get("/v1/search", params={"key": bad + "!"}, headers=headers).text
    for text in (found, missing):
        assert "&lt;script&gt;" in text
        assert "<script" not in text
        assert "<img src=x" not in text


def test_bodies_are_bounded(client, monkeypatch):
    """Told or not, no more than the bound is read of a body, or of all of them together."""
    kind = {"content-type": "image/png"}
    long = bytes(guard.MOST_BYTES + 1)
    assert client.post("/v1/search", content=long, headers=kind).status_code == 413
    parts = (bytes(2**20) for _ in range(100))
    assert client.post("/v1/search", content=parts, headers=kind).status_code == 413
    for lie in ("-1", "1e9", "99999999999999999999", "x", "１"):
        sent = {**kind, "content-length": lie.encode()}
        assert client.post("/v1/search", content=b"x", headers=sent).status_code == 413
    monkeypatch.setattr(guard, "MOST_AT_ONCE", 1000)
    assert client.post("/v1/search", content=bytes(2000), headers=kind).status_code == 503
    monkeypatch.undo()
    # what was refused is let go of
    monkeypatch.setattr(guard, "MOST_AT_ONCE", 3000)
    assert client.post("/v1/search", content=bytes(2000), headers=kind).status_code == 422


RAW = [
    b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    b"Content-Length: 5000\r\n\r\nshort",
    b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    b"Content-Length: 2\r\n\r\nlonger than two",
    b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"
    b"hello",
    b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\nx",
    b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Length: 4\r\n\r\nFFFFFFFFFFFFFFFF\r\nx",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 10**6 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\0" * 1000,
]


def test_a_head_that_does_not_end_ends_its_connection(serve, gallery, monkeypatch):
    """Neither silence nor an endless header holds a connection, whoever sends it."""
    monkeypatch.setattr(server, "HEAD_SECONDS", 1.0)
    address = ("127.0.0.1", int(serve(gallery).rpartition(":")[2]))
    with socket.create_connection(address, 30) as silent, socket.create_connection(address) as link:
        link.settimeout(30)
        with contextlib.suppress(ConnectionError):
            link.sendall(b"GET / HTTP/1.1\r\nX: ")
            for _ in range(1000):
                link.sendall(b"a" * 10_000)
            pytest.fail("ten megabytes of a header were taken")
        assert silent.recv(100) == b""
    with socket.create_connection(address, 30) as link:
        for _ in range(3):  # one that is used again has its time anew
            link.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert link.recv(4096).startswith(b"HTTP/1.1 200")
            time.sleep(0.6)


def test_raw_bytes_on_the_wire(gallery):
    """Lies in lengths, broken chunks and other protocols end their connection and nothing else."""
    command = [sys.executable, "-m", "mixbct", "gallery", "serve", gallery.place, "--port", "0"]
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as running,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(running.kill)  # whatever a check says
        port = int(running.stdout.readline().rpartition(":")[2])
        said = []
        listening = threading.Thread(target=lambda: said.append(running.stderr.read()))
        listening.start()
        for content in RAW * 3:
            with socket.create_connection(("127.0.0.1", port), 30) as link:
                link.settimeout(30)
                try:
                    link.sendall(content)
                    link.shutdown(socket.SHUT_WR)
                    answer = link.recv(100)
                except TimeoutError:
                    raise
                except OSError:  # it has ended the connection already
                    answer = b""
            assert answer == b"" or b" 4" in answer[:12], (content[:60], answer)
        with socket.create_connection(("127.0.0.1", port), 30) as link:
            link.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert link.recv(100).startswith(b"HTTP/1.1 200")
        peak = Path(f"/proc/{running.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
        assert int(peak) < 2_000_000
        running.terminate()
        assert running.wait(60) == 3
        listening.join()
    assert "Traceback" not in said[0]
