"""Galleries that earlier versions of mixbct made: brought up as they are opened, nothing lost.

`earlier/` has what the store of that version wrote, and `told.json` what it then said of itself:
items that were replaced and removed, edges that were, switches, mapped rows.
"""

import contextlib
import json
import sqlite3
import threading
from pathlib import Path

import numpy as np
import psycopg
import pytest

from mixbct.errors import GalleryError
from mixbct.gallery import Gallery
from mixbct.gallery.postgres.database import Postgres
from mixbct.gallery.sqlite.database import DATABASE, Sqlite

EARLIER = Path(__file__).parent / "earlier"


@pytest.fixture(params=["sqlite_3", "sqlite_4", "postgres_1", "postgres_2"])
def place(request, tmp_path):
    """Return where a gallery of an earlier version is, and what it said of itself."""
    script = (EARLIER / f"{request.param}.sql").read_text()
    database = request.param.split("_")[0]
    told = json.loads((EARLIER / "told.json").read_text())[database]
    if database == "sqlite":
        with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
            connection.executescript(script)
        return str(tmp_path), told
    url = request.getfixturevalue("postgres_url")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(script)
    return url, told


def clock(*times):
    return [time and time[17:19] for time in times]


def shown(gallery, keys):
    with gallery.read() as snapshot:
        versions = {key: snapshot.versions(key) for key in keys}
        return {
            "versions": {key: [list(v[:3]) for v in each] for key, each in versions.items()},
            "times": {key: [clock(*v[3:]) for v in each] for key, each in versions.items() if each},
            "switches": [
                [s.number, s.model.contract.name, *clock(s.time), s.before, s.restores]
                for s in snapshot.switches()
            ],
            "thresholds": sorted(edge.threshold for edge in snapshot.edges()),
            "rows": {stored.contract.name: stored.rows for stored in snapshot.contracts()},
        }


def test_an_earlier_gallery_is_brought_up(place):
    where, told = place
    for _ in range(2):  # the second time there is nothing to do
        with Gallery.open(where) as gallery:
            assert gallery.vectors_digest() == told["digest"]
            assert shown(gallery, told["versions"]) == {
                name: value for name, value in told.items() if name != "digest"
            }
            assert gallery.faults() == []
            assert gallery.hits() == {}
            query = gallery.query_model().contract
            found = gallery.search(np.eye(4, dtype=np.float32), query, k=9)
            assert sorted(hit.key for hit in found.of(2)) == ["k0", "k1", "k2", "k3", "n"]
    with Gallery.open(where) as gallery:
        last = max(row[0] for each in told["versions"].values() for row in each)
        for times, given_back in ((1, 0), (2, 1)):
            assert gallery.rollback(leave_out=True).given_back == given_back, times
        with gallery.read() as snapshot:  # what was before the first switch, with an id of its own
            was, again = (told["versions"]["k3"][0], snapshot.versions("k3")[-1])
            assert again[1:3] == (*was[1:],)
            assert again.id > last
        gallery.enrol(["new"], [None], np.eye(4)[:1], gallery.query_model().contract)
        assert gallery.faults() == []


@pytest.mark.parametrize("version", [1, 2])
def test_an_earlier_galleries_hnsw_index_is_made_anew(version, postgres_url):
    script = (EARLIER / f"postgres_{version}.sql").read_text()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(script)
        connection.execute(
            f"UPDATE gallery SET {'index' if version == 1 else 'searched_by'} = 'pgvector-hnsw'; "
            "CREATE INDEX vectors_1_hnsw ON vectors_1 USING hnsw (vector vector_ip_ops)"
        )
        with Gallery.open(postgres_url) as gallery, gallery.read() as snapshot:
            assert snapshot.searched_by() == "pgvector-hnsw"
        made = "SELECT indexname FROM pg_indexes WHERE indexname LIKE '%hnsw' ORDER BY 1"
        assert connection.execute(made).fetchall() == [("rows_1_hnsw",), ("rows_2_hnsw",)]


def test_an_earlier_gallery_that_is_not_all_mixbcts_is_refused(place):
    where, _ = place
    change = "CREATE TABLE more (x integer)"
    if where.startswith("postgresql"):
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(f"SET search_path = mixbct; {change}")
    else:
        with contextlib.closing(sqlite3.connect(Path(where) / DATABASE)) as connection:
            connection.execute(change)
    with pytest.raises(GalleryError, match="'more' was added"):
        Gallery.open(where)


def test_two_clients_bring_a_gallery_up_at_once(place, monkeypatch):
    """Both saw the earlier version; one waits while the other looks at it again."""
    where, told = place
    kind = Postgres if where.startswith("postgresql") else Sqlite
    both, opened, is_old = threading.Barrier(2), [], kind.is_old

    def look(self, connection):
        old = is_old(self, connection)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(1)
        return old

    monkeypatch.setattr(kind, "is_old", look)

    def open_it():
        try:
            with Gallery.open(where) as gallery:
                opened.append(gallery.vectors_digest())
        except Exception as error:  # the test says which
            opened.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == [told["digest"]] * 2
