"""The SQLite file: killed processes, several processes, full disks, other people's files."""

import contextlib
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from mixbct.errors import ContractError, DiskFullError, GalleryError
from mixbct.gallery import Gallery
from mixbct.gallery.sqlite.database import DATABASE
from mixbct.gallery.stores import open_store
from mixbct.gallery.transaction import Transaction

BATCH = 40


@pytest.fixture
def path(tmp_path, old):
    folder = tmp_path / "gallery"
    Gallery.create(folder, old).close()
    return folder


def enrol(gallery, prefix, n, contract, vectors, seed=0):
    keys = [f"{prefix}{i}" for i in range(n)]
    return gallery.enrol(keys, keys, vectors(n, seed), contract)


def items_digest(path):
    digest = hashlib.sha256()
    connection = sqlite3.connect(path / DATABASE)
    for row in connection.execute("SELECT * FROM rows_1 ORDER BY id"):
        digest.update(repr(row).encode())
    connection.close()
    return digest.hexdigest()


def test_a_switch_touches_no_row(path, old, new, make_edge, vectors):
    with Gallery.open(path) as gallery:
        enrol(gallery, "o", 30, old, vectors)
        before = items_digest(path)
        gallery.switch(new, make_edge(new, old))
        assert gallery.search(vectors(1), new, k=1).of(0)[0].key == "o0"
    assert items_digest(path) == before


def test_vectors_are_stored_as_little_endian_unit_float32(path, old):
    with Gallery.open(path) as gallery:
        gallery.enrol(["a"], ["x"], np.eye(8, dtype=np.float64)[2:3] * 5, old)
    connection = sqlite3.connect(path / DATABASE)
    (blob,) = connection.execute("SELECT vector FROM rows_1").fetchone()
    connection.close()
    assert blob == b"\0\0\0\0" * 2 + b"\0\0\x80\x3f" + b"\0\0\0\0" * 5


_ENROL_FOR_EVER = """
import itertools, sys
from pathlib import Path
import numpy as np
from mixbct.gallery import Gallery
with Gallery.open(Path(sys.argv[1])) as gallery:
    contract = gallery.query_model().contract
    start = gallery.status().rows
    for i in itertools.count(start // int(sys.argv[2])):
        keys = [f"{i}-{j}" for j in range(int(sys.argv[2]))]
        rows = np.random.default_rng(i).standard_normal((len(keys), contract.dim))
        gallery.enrol(keys, keys, rows, contract)
        gallery.search(rows[:1], contract)
        print(i, flush=True)
"""


def test_a_killed_process_leaves_whole_batches(path, old):
    rng = np.random.default_rng(0)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", _ENROL_FOR_EVER, str(path), str(BATCH)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        with process:
            seen = 0
            for line in process.stdout:
                seen = int(line) + 1
                if seen % 7 == 6:
                    break
            # somewhere in the middle of the next batch
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
        with Gallery.open(path) as gallery:
            rows = gallery.status().rows
            assert rows % BATCH == 0
            # what was reported as done is there
            assert rows >= seen * BATCH > 0
            last = rows // BATCH - 1
            queries = np.random.default_rng(last).standard_normal((BATCH, old.dim))
            hits = gallery.search(queries, old, k=1)
            assert [hits.of(j)[0].key for j in range(BATCH)] == [
                f"{last}-{j}" for j in range(BATCH)
            ]
    connection = sqlite3.connect(path / DATABASE)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


_ENROL_TEN_BATCHES = """
import sys
from pathlib import Path
import numpy as np
from mixbct.gallery import Gallery
sys.stdin.readline()
with Gallery.open(Path(sys.argv[1])) as gallery:
    contract = gallery.query_model().contract
    for i in range(10):
        keys = [f"{sys.argv[2]}-{i}-{j}" for j in range(20)]
        rows = np.random.default_rng([int(sys.argv[2]), i]).standard_normal((20, contract.dim))
        gallery.enrol(keys, keys, rows, contract)
        hits = gallery.search(rows, contract, k=1)
        assert [hits.of(j)[0].key for j in range(20)] == keys
"""


def test_two_processes_enrol_and_search_at_once(path, old):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _ENROL_TEN_BATCHES, str(path), str(number)],
            stdin=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for number in range(2)
    ]
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.close()
    for process in processes:
        process.wait()
    assert [process.returncode for process in processes] == [0, 0]
    with Gallery.open(path) as gallery:
        assert gallery.status().rows == 400
        for number in range(2):
            rows = np.random.default_rng([number, 9]).standard_normal((20, old.dim))
            hits = gallery.search(rows, old, k=1)
            assert hits.of(7)[0].key == f"{number}-9-7"


def test_a_reader_sees_what_another_process_commits(path, old, new, make_edge, vectors):
    with Gallery.open(path) as writer, Gallery.open(path) as reader:
        enrol(writer, "a", 5, old, vectors)
        assert reader.search(vectors(5), old, k=1).of(4)[0].key == "a4"
        enrol(reader, "b", 5, old, vectors, seed=1)
        assert writer.search(vectors(5, 1), old, k=1).of(2)[0].key == "b2"
        writer.switch(new, make_edge(new, old))
        assert reader.query_model().contract == new
        assert len(reader.search(vectors(1), new, k=20).of(0)) == 10


def test_reading_goes_on_while_another_process_writes(path, old, vectors):
    with Gallery.open(path) as reader:
        enrol(reader, "a", 5, old, vectors)
        other = open_store(path)
        with other.write() as transaction:
            transaction.put(["z"], ["z"], old, vectors(1, 9))
            assert len(reader.search(vectors(1), old, k=20).of(0)) == 5
        assert len(reader.search(vectors(1), old, k=20).of(0)) == 6
        other.close()


def test_a_second_writer_waits_and_then_says_so(path, old, vectors):
    first = open_store(path)
    second = Gallery(open_store(path, timeout=0.05))
    with first.write(), pytest.raises(GalleryError, match="being written by another process"):
        enrol(second, "b", 2, old, vectors)
    enrol(second, "b", 2, old, vectors)
    assert second.status().rows == 2
    first.close()
    second.close()


def test_a_full_disk_stores_nothing_of_the_batch(path, old, vectors):
    store = open_store(path)
    (connection,) = store._idle
    with Gallery(store) as gallery:
        enrol(gallery, "a", 5, old, vectors)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(DiskFullError, match=r"gallery\.sqlite.*intact"):
            enrol(gallery, "b", 2000, old, vectors, seed=1)
        assert gallery.status().rows == 5
        connection.execute("PRAGMA max_page_count = 1000000")
        enrol(gallery, "b", 2000, old, vectors, seed=1)
        assert gallery.status().rows == 2005


def test_other_files_are_refused(path, tmp_path, old):
    other = tmp_path / DATABASE
    other.write_text("not a database, but long enough to have a header " * 40)
    with pytest.raises(GalleryError, match="not an SQLite file"):
        Gallery.open(tmp_path)
    with pytest.raises(GalleryError, match="not an SQLite file"):
        Gallery.create(tmp_path, old)
    other.unlink()
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with pytest.raises(GalleryError, match="another program"):
        Gallery.open(tmp_path)
    with pytest.raises(GalleryError, match="already there"):
        Gallery.create(tmp_path, old)


def test_a_later_schema_is_refused(path):
    connection = sqlite3.connect(path / DATABASE)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(GalleryError, match="schema 7"):
        Gallery.open(path)


def test_an_interrupted_init_can_be_run_again(tmp_path, old):
    (tmp_path / DATABASE).touch()
    with pytest.raises(GalleryError, match="interrupted; run it again"):
        Gallery.open(tmp_path)
    Gallery.create(tmp_path, old).close()
    with Gallery.open(tmp_path) as gallery:
        assert gallery.query_model().contract == old


def test_a_failed_create_leaves_an_empty_file(tmp_path, old, monkeypatch):
    def fail(self, switch):
        raise DiskFullError("full")

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "switch", fail)
        with pytest.raises(DiskFullError):
            Gallery.create(tmp_path, old)
    with pytest.raises(GalleryError, match="interrupted"):
        Gallery.open(tmp_path)


def test_a_damaged_file_is_named(path, old, vectors):
    with Gallery.open(path) as gallery:
        enrol(gallery, "a", 500, old, vectors)
    file = path / DATABASE
    content = bytearray(file.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    file.write_bytes(content)

    def read():
        with Gallery.open(path) as gallery:
            gallery.search(vectors(1), old)

    with pytest.raises(GalleryError, match=r"gallery\.sqlite is damaged"):
        read()


def test_an_index_that_has_seen_none_of_many_changes_follows_them(path, old, vectors):
    with Gallery.open(path) as gallery:
        for i in range(6):
            gallery.enrol([f"k{i % 2}"], ["x"], vectors(1, i), old, replace=True)
            if i == 1:
                gallery.search(vectors(1), old)
        best = gallery.search(vectors(1, 5), old).of(0)
        assert [hit.key for hit in best] == ["k1", "k0"]


def test_a_new_gallery_keeps_a_log(path):
    with contextlib.closing(sqlite3.connect(path / DATABASE)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


_SWITCH_AND_ENROL = """
import sys
from pathlib import Path
import numpy as np
from mixbct.gallery import Gallery
from mixbct.schemas.gate import Edge
from mixbct.schemas.record import read_record
folder = Path(sys.argv[1])
edges = [Edge.model_validate_json((folder / f"{i}.json").read_text()) for i in range(2)]
with Gallery.open(folder / "gallery") as gallery:
    for i in range(60):
        edge = edges[i % 2]
        gallery.switch(edge.from_contract, edge)
        rows = np.random.default_rng([i, 7]).standard_normal((5, 8))
        keys = [f"{i % 20}-{j}" for j in range(5)]
        gallery.enrol(keys, [str(i)] * 5, rows, edge.from_contract, replace=True)
"""


def test_no_search_is_wrong_while_another_process_enrols_and_switches(
    path, old, new, make_edge, vectors
):
    edges = [make_edge(new, old), make_edge(old, new)]
    for i, edge in enumerate(edges):
        (path.parent / f"{i}.json").write_text(edge.to_json())
    with Gallery.open(path) as gallery:
        enrol(gallery, "o", 30, old, vectors)
    writer = subprocess.Popen(
        [sys.executable, "-c", _SWITCH_AND_ENROL, str(path.parent)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    searches = 0
    with Gallery.open(path) as gallery:
        while writer.poll() is None:
            contract = gallery.query_model().contract
            try:
                hits = gallery.search(vectors(30), contract, k=200)
            except ContractError:
                continue  # it was switched in between
            searches += 1
            keys = [hit.key for hit in hits.of(3)]
            assert keys[0] == "o3"
            assert len(set(keys)) == len(keys)
            assert (len(keys) - 30) % 5 == 0
            for hit in hits.of(3):
                number = int(hit.label) if hit.label.isdigit() else 1
                assert hit.contract == str((new, old)[number % 2])
    assert writer.wait() == 0
    assert searches > 5
