"""Galleries that were damaged, or came from somebody else: named errors, nothing wrong found."""

import contextlib
import hashlib
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mixbct.errors import DiskFullError, GalleryError, MixbctError
from mixbct.gallery import Gallery
from mixbct.gallery.sqlite.database import DATABASE
from mixbct.gallery.sqlite.versions import schema_of
from mixbct.gallery.stores import open_store
from mixbct.gallery.tables import digest_of

N = 60
K7 = 8  # the id of the row that is damaged


@pytest.fixture
def path(tmp_path, old, new, make_edge, vectors):
    """A gallery of two contracts, its index built and cached."""
    folder = tmp_path / "gallery"
    keys = [f"k{i}" for i in range(N)]
    with Gallery.create(folder, old) as gallery:
        gallery.enrol(keys, [f"label {key}" for key in keys], vectors(N), old)
        gallery.switch(new, make_edge(new, old, threshold=0.25))
        gallery.enrol(["n"], ["n"], vectors(1, 1), new)
        gallery.search(vectors(1), new)
    return folder


def change(path, *statements):
    with contextlib.closing(sqlite3.connect(path / DATABASE)) as connection:
        for statement in statements:
            connection.execute(*([statement] if isinstance(statement, str) else statement))
        connection.commit()


def flip(path, column, bit=0):
    """Flip one bit of a stored row, as a failing disk does."""
    with contextlib.closing(sqlite3.connect(path / DATABASE)) as connection:
        there = f"SELECT count(*) FROM {{}} WHERE id = {K7}"
        [table] = [
            t for t in ("rows_1", "rows_2") if connection.execute(there.format(t)).fetchone()[0]
        ]
        select = f"SELECT CAST({column} AS BLOB) FROM {table} WHERE id = {K7}"
        (content,) = connection.execute(select).fetchone()
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        value = bytes(changed) if column == "vector" else bytes(changed).decode()
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE id = {K7}", (value,))
        connection.commit()


def search(path, contract, vectors, k=N + 1):
    with Gallery.open(path) as gallery:
        return gallery.search(vectors(N), contract, k=k)


def forget_index(path):
    for file in path.glob("index-*"):
        file.unlink()


# the exponent's highest bit makes a component 10^38; the lowest of the mantissa changes nothing
@pytest.mark.parametrize(("column", "bit"), [("vector", 30), ("vector", 0), ("label", 3)])
@pytest.mark.parametrize("cached", [True, False])
def test_one_flipped_bit_is_named_wherever_it_is(path, new, vectors, column, bit, cached):
    flip(path, column, bit)
    if not cached:
        forget_index(path)
    with pytest.raises(GalleryError, match=r"damaged: the item 'k7' .*--verify.*--replace"):
        search(path, new, vectors)
    with Gallery.open(path) as gallery:
        assert gallery.faults() == ["the item 'k7' is not as it was enrolled"]


def test_a_changed_key_is_named_by_what_it_became(path, new, vectors):
    flip(path, "key", bit=1)
    with pytest.raises(GalleryError, match="the item 'i7'"):
        search(path, new, vectors)


def test_what_was_damaged_can_be_enrolled_again(path, old, new, vectors):
    flip(path, "vector", 30)
    with Gallery.open(path) as gallery:
        gallery.enrol(["k7"], ["label k7"], vectors(N)[7:8], old, replace=True)
        assert gallery.faults() == []
        assert gallery.search(vectors(N), new, k=1).of(7)[0].key == "k7"


@pytest.mark.parametrize("norm", [0.0, 0.5, 3e38, np.nan, np.inf])
def test_a_row_that_has_no_unit_norm_is_named_even_with_its_digest(path, old, new, vectors, norm):
    blob = (np.eye(8)[0] * norm if np.isfinite(norm) else np.full(8, norm)).astype("<f4").tobytes()
    digest = digest_of("k7", "label k7", old.id, blob)
    change(
        path,
        ("UPDATE rows_1 SET digest = ? WHERE key = 'k7'", (digest,)),
        (f"UPDATE rows_1 SET vector = ? WHERE id = {K7}", (blob,)),
    )
    forget_index(path)
    with pytest.raises(GalleryError, match="'k7'"):
        search(path, new, vectors)


def test_vectors_of_another_length_are_named(path, old, new, vectors):
    blob = b"\0" * 36
    digest = digest_of("k7", "label k7", old.id, blob)
    change(
        path,
        ("UPDATE rows_1 SET digest = ? WHERE key = 'k7'", (digest,)),
        (f"UPDATE rows_1 SET vector = ? WHERE id = {K7}", (blob,)),
    )
    forget_index(path)
    with pytest.raises(GalleryError, match="'k7'"):
        search(path, new, vectors)


def test_a_changed_threshold_is_seen(path, new, vectors):
    change(path, "UPDATE edges SET json = replace(json, '0.25', '0.05')")
    for use in (lambda g: g.status(), lambda g: g.search(vectors(1), new)):
        with (
            Gallery.open(path) as gallery,
            pytest.raises(GalleryError, match=r"the edge .* changed"),
        ):
            use(gallery)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM rows_1 WHERE id = 4",
        "UPDATE contracts SET rows = rows + 1",
        "UPDATE contracts SET rows = rows - 1 WHERE rows > 1",
    ],
)
def test_rows_that_are_not_those_that_are_told_of(path, new, vectors, statement):
    change(path, statement)
    forget_index(path)
    with pytest.raises(GalleryError, match=r"damaged .*rows of .*told of"):
        search(path, new, vectors)
    with Gallery.open(path) as gallery:
        assert any("than are told of" in fault for fault in gallery.faults())


def test_a_row_that_left_behind_the_index_is_named(path, new, vectors):
    change(path, "DELETE FROM rows_1 WHERE key = 'k3'")
    with pytest.raises(GalleryError, match="1 rows of its index are not there"):
        search(path, new, vectors)


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        (["DELETE FROM switches"], "names no query model"),
        (["PRAGMA foreign_keys = OFF", "DELETE FROM contracts"], "switch 2 names no model"),
        (["UPDATE switches SET contract = 9 WHERE number = 2"], "switch 2 names no model"),
        (["UPDATE edges SET source = 9"], "an edge is of no contract"),
        (["DELETE FROM changes"], "has no history"),
        (["UPDATE contracts SET json = '{}'"], r"record \(Contract\) that this version .* read"),
        (["UPDATE contracts SET json = replace(json, '}', ',\"more\":1}')"], "more: Extra"),
        (["UPDATE contracts SET json = '" + "[" * 10_000 + "'"], "Contract"),
        (
            ["UPDATE edges SET json = replace(json, '1', '7'), digest = 0"],
            "the edge from .* was changed",
        ),
        (["UPDATE contracts SET json = CAST(x'ff00' AS TEXT)"], "damaged .*decode"),
    ],
)
def test_records_that_cannot_be_read_are_named(path, new, vectors, statements, says):
    change(path, *statements)
    with pytest.raises(GalleryError, match=says):
        search(path, new, vectors)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (
            "CREATE TRIGGER empty AFTER INSERT ON rows_1 BEGIN DELETE FROM rows_1; END",
            "trigger 'empty' was added",
        ),
        (
            "CREATE VIEW numbers AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) "
            "SELECT i FROM n",
            "view 'numbers' was added",
        ),
        ("CREATE TABLE more (x)", "table 'more' was added"),
        ("CREATE INDEX more ON rows_1 (upper(label))", "index 'more' was added"),
        ("ALTER TABLE rows_1 ADD COLUMN more TEXT GENERATED ALWAYS AS (key)", "table 'rows_1' was"),
        ("DROP INDEX past_by_key", "index 'past_by_key' was"),
    ],
)
def test_a_received_schema_must_be_mixbcts_own(path, old, new, vectors, statement, says):
    change(path, statement)
    with pytest.raises(GalleryError, match=says):
        search(path, new, vectors)
    with pytest.raises(GalleryError, match=says), Gallery.open(path) as gallery:
        gallery.enrol(["z"], ["z"], vectors(1), old)
    with contextlib.closing(sqlite3.connect(path / DATABASE)) as connection:
        assert connection.execute("SELECT count(*) FROM rows_1").fetchone() == (N,)


def test_a_view_in_a_tables_place_does_not_run(path, new, vectors):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT '1', '2' FROM n"
    change(path, "DROP TABLE edges", f"CREATE VIEW edges AS {endless}")
    with pytest.raises(GalleryError, match=r"(table|view|index) '.*edge.*' was added, changed"):
        search(path, new, vectors)


@pytest.mark.parametrize("name", ["index", DATABASE + "-wal", DATABASE + "-shm"])
def test_a_pipe_in_a_files_place_does_not_hang(path, old, new, vectors, name):
    file = path / (f"index-{old.id}.rows" if name == "index" else name)
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    with contextlib.suppress(GalleryError):
        assert search(path, new, vectors).of(5)[0].key == "k5"


def test_a_pipe_as_the_database_is_no_gallery(path, new, vectors):
    (path / DATABASE).unlink()
    os.mkfifo(path / DATABASE)
    with pytest.raises(GalleryError, match="there is no gallery"):
        search(path, new, vectors)


def mutated(content, rng):
    """Return `content` with bits flipped, a part overwritten, doubled or taken out, or cut."""
    content = bytearray(content)
    # most of what decides stands in the first pages
    at = rng.randrange(len(content) if rng.random() < 0.5 else 8192)
    kind, length = rng.randrange(5), rng.choice([1, 2, 4, 100, 5000])
    if kind == 0:
        for _ in range(rng.choice([1, 3, 30])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        content[at : at + length] = rng.randbytes(len(content[at : at + length]))
    elif kind == 2:
        content[at : at + length] = rng.choice([b"\0", b"\xff", b"\x7f"]) * length
    elif kind == 3:
        content[at:at] = content[at : at + length]
    else:
        del content[at : at + length * 10]
    return bytes(content)


@pytest.mark.parametrize("seed", range(6))
def test_mutated_galleries_give_named_errors_or_what_was_enrolled(path, new, vectors, seed):
    rng = random.Random(seed)
    whole = {name: (path / name).read_bytes() for name in sorted(p.name for p in path.iterdir())}
    expected = [hit.model_dump(exclude={"score"}) for hit in search(path, new, vectors).of(3)]
    named = 0
    for _ in range(50):
        for file in path.iterdir():
            file.unlink()
        victim = DATABASE if rng.random() < 0.8 else rng.choice(sorted(whole))
        for name, content in whole.items():
            (path / name).write_bytes(mutated(content, rng) if name == victim else content)
        try:
            found = search(path, new, vectors).of(3)
            with Gallery.open(path) as gallery:
                gallery.status()
                gallery.faults()
        except MixbctError:
            named += 1
        else:
            assert [hit.model_dump(exclude={"score"}) for hit in found] == expected
    assert 5 < named < 50


_ON_A_SMALL_DISK = """
import subprocess, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_damage import on_a_small_disk
on_a_small_disk(Path({disk!r}))
"""


def on_a_small_disk(disk):
    from mixbct.schemas.model import Contract

    contract = Contract(name="old", weights="w", preprocessing=None, dim=8)
    rows = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    folder = disk / "gallery"

    def reads():
        with Gallery.open(folder) as gallery:
            assert gallery.search(rows, contract, k=1).of(7)[0].key == "7"
            assert gallery.status().rows == 500
            assert gallery.faults() == []

    def writes(error, says):
        with Gallery.open(folder) as gallery:
            for write in (
                lambda: gallery.enrol(["n"], ["n"], rows[:1], contract),
                lambda: gallery.switch(contract),
            ):
                with pytest.raises(error, match=says):
                    write()
        with pytest.raises(error):
            Gallery.create(disk / "other", contract)

    with Gallery.create(folder, contract) as gallery:
        gallery.enrol([str(i) for i in range(500)], ["x"] * 500, rows, contract)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    reads()
    writes(GalleryError, "gallery.sqlite cannot be written: .*read-only|cannot be made")
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    with contextlib.suppress(OSError), (disk / "fill").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    reads()
    writes(DiskFullError, "no space left on the disk of .*gallery.sqlite|no space left")
    (disk / "fill").unlink()
    with Gallery.open(folder) as gallery:
        gallery.enrol(["n"], ["n"], rows[:1], contract)


def test_a_read_only_and_a_full_disk(tmp_path):
    """A real disk, since root may write wherever permissions forbid it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=4m t "$1" && shift && "$@"']
    try:
        tried = subprocess.run([*mount, "-", str(disk), "true"], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if tried.returncode:
        pytest.skip("a small file system cannot be mounted here without root")
    program = _ON_A_SMALL_DISK.format(here=str(Path(__file__).parent), disk=str(disk))
    run = subprocess.run(
        [*mount, "-", str(disk), sys.executable, "-c", program], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


class ReadOnly(sqlite3.Connection):
    """SQLite where no file can be made beside the gallery's."""

    def execute(self, statement, *values):
        if "sqlite_master" in statement and "mode=rw" in self.name:
            problem = sqlite3.OperationalError("unable to open database file")
            problem.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
            raise problem
        return super().execute(statement, *values)

    def __init__(self, name, **settings):
        self.name = name
        super().__init__(name, **settings)


def test_a_gallery_that_is_only_read_says_when_it_was_changed(path, new, vectors, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", ReadOnly)
        reader = Gallery.open(path)
    assert reader.search(vectors(N), new, k=1).of(5)[0].key == "k5"
    with Gallery.open(path) as writer:
        writer.enrol(["z"], ["z"], vectors(1, 5), new)
    with pytest.raises(GalleryError, match="was changed since it was opened"):
        reader.search(vectors(N), new)
    reader.close()


VERSION_1 = """
CREATE TABLE contracts (id TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT;
CREATE TABLE edges (
    from_id TEXT NOT NULL REFERENCES contracts, to_id TEXT NOT NULL REFERENCES contracts,
    json TEXT NOT NULL, PRIMARY KEY (from_id, to_id)) STRICT;
CREATE TABLE query_model (
    one INTEGER PRIMARY KEY CHECK (one = 1), contract_id TEXT NOT NULL REFERENCES contracts,
    folder TEXT) STRICT;
CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, label TEXT NOT NULL,
    contract_id TEXT NOT NULL REFERENCES contracts, time TEXT NOT NULL,
    vector BLOB NOT NULL) STRICT;
CREATE INDEX items_by_contract ON items (contract_id);
CREATE TABLE changes (
    revision INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL,
    removed INTEGER NOT NULL) STRICT;
PRAGMA application_id = 1836606051;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""


def test_a_gallery_of_the_first_version_is_brought_up_to_date(
    tmp_path, old, new, make_edge, vectors, monkeypatch
):
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        connection.executescript(VERSION_1)
        for contract in (old, new):
            connection.execute(
                "INSERT INTO contracts VALUES (?, ?)", (contract.id, contract.model_dump_json())
            )
        edge = make_edge(new, old, 0.4)
        connection.execute(
            "INSERT INTO edges VALUES (?, ?, ?)", (new.id, old.id, edge.model_dump_json())
        )
        connection.execute("INSERT INTO query_model VALUES (1, ?, NULL)", (new.id,))
        connection.execute("INSERT INTO changes VALUES (1, '00', 0)")
        for i, vector in enumerate(vectors(N)):
            row = (f"k{i}", "x", old.id, "2026-01-01T00:00:00+00:00", vector.tobytes())
            connection.execute("INSERT INTO items VALUES (NULL, ?, ?, ?, ?, ?)", row)
        connection.commit()
    (tmp_path / f"index-{old.id}.cache").write_bytes(b"of that version")
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", ReadOnly)
        with pytest.raises(GalleryError, match=r"earlier version.*open it once where it can"):
            Gallery.open(tmp_path)
    hits = search(tmp_path, new, vectors, k=1)
    assert [hits.of(i)[0].key for i in range(N)] == [f"k{i}" for i in range(N)]
    assert not list(tmp_path.glob("*.cache"))
    with Gallery.open(tmp_path) as gallery:
        assert gallery.faults() == []
        assert gallery.status().edges[0].threshold == 0.4
        gallery.enrol(["k0"], ["x"], vectors(1, 9), new, replace=True)
        assert gallery.status().rows == N
    flip(tmp_path, "vector", 30)
    with Gallery.open(tmp_path) as gallery:
        assert len(gallery.faults()) == 1


VERSION_2 = (
    VERSION_1.replace("user_version = 1", "user_version = 2")
    + """
ALTER TABLE items ADD COLUMN digest INTEGER NOT NULL DEFAULT 0;
ALTER TABLE edges ADD COLUMN digest INTEGER NOT NULL DEFAULT 0;
ALTER TABLE contracts ADD COLUMN rows INTEGER NOT NULL DEFAULT 0;
ALTER TABLE contracts ADD COLUMN cached_rows INTEGER NOT NULL DEFAULT 0;
ALTER TABLE contracts ADD COLUMN cached_state TEXT NOT NULL DEFAULT '';
ALTER TABLE contracts ADD COLUMN cached_sha256 TEXT NOT NULL DEFAULT '';
"""
)


def test_a_gallery_of_the_second_version_is_brought_up_to_date(
    tmp_path, old, new, make_edge, vectors
):
    """Its rows, edge, query model and ids stay; it has one switch, and nothing to go back to."""
    edge = make_edge(new, old, 0.4)
    content = vectors(N).astype("<f4").tobytes()
    blobs = [content[32 * i : 32 * i + 32] for i in range(N)]
    index = np.arange(1, N + 1).astype("<i8").tobytes() + content
    cached = N, "1-00", hashlib.sha256(index).hexdigest()
    (tmp_path / f"index-{old.id}.rows").write_bytes(index)
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        connection.executescript(VERSION_2)
        for contract, rows in ((old, N), (new, 0)):
            row = contract.id, contract.model_dump_json(), rows, *(cached if rows else (0, "", ""))
            connection.execute("INSERT INTO contracts VALUES (?, ?, ?, ?, ?, ?)", row)
        text = edge.model_dump_json()
        row = new.id, old.id, text, digest_of(new.id, old.id, text, b"")
        connection.execute("INSERT INTO edges VALUES (?, ?, ?, ?)", row)
        connection.execute("INSERT INTO query_model VALUES (1, ?, '/models/new')", (new.id,))
        connection.execute("INSERT INTO changes VALUES (1, '00', 0)")
        for i, blob in enumerate(blobs):
            name = f"k{i}"
            row = i + 1, name, "x", old.id, "2026-01-01T00:00:00+00:00", blob
            digest = digest_of(name, "x", old.id, blob)
            connection.execute("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, digest))
        connection.execute("UPDATE sqlite_sequence SET seq = 1000 WHERE name = 'items'")
        connection.commit()
    with Gallery.open(tmp_path) as gallery:
        assert gallery.faults() == []
        hits = gallery.search(vectors(N), new, k=1)
        assert [hits.of(i)[0].key for i in range(N)] == [f"k{i}" for i in range(N)]
        assert hits.ids.max() == N
        status = gallery.status()
        assert (status.rows, status.model_folder) == (N, "/models/new")
        assert [each.threshold for each in status.edges] == [0.4]
        assert [(each.number, each.before) for each in status.switches] == [(1, None)]
        gallery.enrol(["k0", "n"], [None, "x"], vectors(2, 9), new, replace=True)
        assert gallery.search(vectors(2, 9), new, k=1).ids.min() > 1000  # no id comes twice
        with pytest.raises(GalleryError, match="nothing to go back to"):
            gallery.rollback()
    with (
        contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as connection,
        Gallery.create(tmp_path / "fresh", old),
        contextlib.closing(sqlite3.connect(tmp_path / "fresh" / DATABASE)) as fresh,
    ):
        made = {row for row in schema_of(connection) if row[2] != "rows_2"}
        assert made == schema_of(fresh)


def work(path, contract, rows, replace):
    """Return how many steps SQLite takes to enrol one row."""
    steps = 0

    def count():
        nonlocal steps
        steps += 1

    store = open_store(path)
    with Gallery(store) as gallery:
        store._idle[0].set_progress_handler(count, 10)
        gallery.enrol(["k1" if replace else f"one {replace}"], ["x"], rows, contract, replace)
    return steps


@pytest.mark.parametrize("replace", [False, True])
def test_enrolling_one_row_costs_its_own_work(path, old, vectors, replace):
    few = work(path, old, vectors(1, 3), replace)
    with Gallery.open(path) as gallery:
        keys = [f"more {i}" for i in range(5000)]
        gallery.enrol(keys, keys, vectors(5000, 4), old)
        gallery.enrol([f"one {replace}"], ["x"], vectors(1, 4), old, replace=True)
    with Gallery.open(path) as gallery:
        gallery.enrol(["gone"], ["x"], vectors(1, 4), old)
    change(path, "DELETE FROM rows_1 WHERE key = 'one False'")
    assert work(path, old, vectors(1, 3), replace) <= few + 5
