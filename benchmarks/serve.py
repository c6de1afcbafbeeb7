"""A search over HTTP, by 1, 4 and 16 clients at once, beside a bare FAISS index in a loop."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import faiss
import httpx2
import numpy as np

from benchmarks.data import demo_model
from benchmarks.measure import Figure, in_turn, rate_figure
from benchmarks.search import stored
from mixbct.schemas.contract import Contract

QUERIES = 128
HITS = 10
CLIENTS = (1, 4, 16)


def run(folder: Path) -> list[Figure]:
    """Return queries a second with so many clients, and the median and slowest times to answer."""
    contract = demo_model().contract
    queries, index = stored(folder / "gallery", contract, QUERIES)
    figures: list[Figure] = []
    with served(folder / "gallery") as url:
        for clients in CLIENTS:
            figures += _figures(url, contract, queries, index, clients)
    return figures


@contextlib.contextmanager
def served(gallery: Path) -> Iterator[str]:
    """Serve a gallery in a process of its own; yield its address."""
    command = [sys.executable, "-m", "mixbct", "gallery", "serve", str(gallery), "--port", "0"]
    server = subprocess.Popen(
        [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdout is not None
    try:
        told = "".join(iter(server.stdout.readline, "}\n")) + "}"
        yield json.loads(told)["url"]
    finally:
        server.terminate()
        server.wait()


def _figures(
    url: str, contract: Contract, queries: np.ndarray, index: faiss.IndexFlatIP, clients: int
) -> list[Figure]:
    bodies = [query.tobytes() for query in queries]
    taken: list[float] = []

    def bare() -> None:
        for query in queries:
            index.search(query[None], HITS)

    with asyncio.Runner() as runner:
        http = httpx2.AsyncClient(
            base_url=url,
            params={"contract": contract.id, "k": HITS},
            headers={"content-type": "application/octet-stream"},
            timeout=60,
        )

        async def client(mine: list[bytes]) -> None:
            for body in mine:
                began = time.perf_counter()
                (await http.post("/v1/search", content=body)).raise_for_status()
                taken.append(time.perf_counter() - began)

        async def every() -> None:
            await asyncio.gather(*(client(bodies[i::clients]) for i in range(clients)))

        pairs = in_turn(lambda: runner.run(every()), bare, for_seconds=10)
        runner.run(http.aclose())
    name = f"serve/search/{clients}"
    alone = min(reference for _, reference in pairs) / len(queries)
    slow = [
        (f"{name} {what}", float(np.percentile(taken, q))) for what, q in (("p50", 50), ("p99", 99))
    ]
    return [
        rate_figure(name, "queries/s", pairs, len(queries)),
        *(Figure(what, value, "s", alone, value / alone) for what, value in slow),
    ]
