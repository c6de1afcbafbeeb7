"""The cache files of the search index: they save time and never lie."""

import contextlib
import shutil
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from mixbct.gallery import Gallery
from mixbct.gallery.snapshot import Snapshot
from mixbct.gallery.sqlite import indexes
from mixbct.gallery.sqlite.database import DATABASE
from mixbct.gallery.sqlite.index import RowIndex, read_index

N = 64


@pytest.fixture
def path(tmp_path, old, vectors):
    """A gallery whose index was built and cached."""
    folder = tmp_path / "gallery"
    with Gallery.create(folder, old) as gallery:
        add(gallery, range(N), old, vectors)
        gallery.search(vectors(1), old)
    return folder


def vector(vectors, i):
    return vectors(1, seed=1000 + i)


def add(gallery, numbers, contract, vectors, replace=False):
    keys = [f"k{i}" for i in numbers]
    rows = np.concatenate([vector(vectors, i) for i in numbers])
    gallery.enrol(keys, keys, rows, contract, replace)


def cache(path, contract):
    return path / f"index-{contract.id}.rows"


def loaded(path, contract):
    with contextlib.closing(sqlite3.connect(path / DATABASE)) as connection:
        told = connection.execute(
            "SELECT c.rows, sha256 FROM caches c JOIN contracts ON number = contract "
            "WHERE id = ? AND side = ''",
            (contract.id,),
        ).fetchone()
    return told and read_index(cache(path, contract), told[0], contract.dim, told[1])


def found(path, contract, vectors, numbers):
    """Return which of `numbers` are found, as themselves, by a gallery that is opened for it."""
    queries = np.concatenate([vector(vectors, i) for i in numbers])
    with Gallery.open(path) as gallery:
        hits = gallery.search(queries, contract, k=1)
    best = [hits.of(row)[0] for row in range(len(numbers))]
    return {
        i for i, hit in zip(numbers, best, strict=True) if hit.key == f"k{i}" and hit.score > 0.999
    }


@pytest.fixture
def read_rows(monkeypatch):
    """Collect the ids of the rows that are read from the store into an index."""
    seen = []
    blocks = Snapshot.blocks

    def collecting(self, contract, after=0, **more):
        for block in blocks(self, contract, after, **more):
            seen.extend(block.ids)
            yield block

    monkeypatch.setattr(Snapshot, "blocks", collecting)
    return seen


def test_a_fresh_cache_is_read_and_not_written(path, old, vectors, read_rows):
    before = cache(path, old).stat().st_mtime_ns
    assert found(path, old, vectors, range(N)) == set(range(N))
    assert read_rows == []
    assert cache(path, old).stat().st_mtime_ns == before


def test_appended_rows_are_added_to_it(path, old, vectors, read_rows):
    with Gallery.open(path) as gallery:
        add(gallery, range(N, N + 4), old, vectors)
    before = cache(path, old).read_bytes()
    assert found(path, old, vectors, range(N + 4)) == set(range(N + 4))
    assert len(read_rows) == 4
    # a few rows are not worth a new file …
    assert cache(path, old).read_bytes() == before
    with Gallery.open(path) as gallery:
        add(gallery, range(N + 4, N + 14), old, vectors)
    assert found(path, old, vectors, range(N + 14)) == set(range(N + 14))
    # … more than an eighth are
    assert len(loaded(path, old)) == N + 14


def test_replaced_rows_leave_it(path, old, vectors, read_rows):
    with Gallery.open(path) as gallery:
        gallery.enrol(["k3"], ["k3"], vector(vectors, 999), old, replace=True)
    assert found(path, old, vectors, range(N)) == set(range(N)) - {3}
    assert len(read_rows) == 1
    with Gallery.open(path) as gallery:
        hit = gallery.search(vector(vectors, 999), old, k=1).of(0)[0]
    assert (hit.key, round(hit.score, 5)) == ("k3", 1.0)


def cut(content):
    return content[:-1]


def longer(content):
    return content + b"\0"


def flip_vector(content):
    return content[:-6] + bytes([content[-6] ^ 1]) + content[-5:]


def flip_id(content):
    return bytes([content[0] ^ 64]) + content[1:]


def shifted_ids(content):
    """Each vector under its neighbour's id, as a faulty writer would leave them."""
    return content[8 : 8 * N] + content[:8] + content[8 * N :]


@pytest.mark.parametrize(
    "damage",
    [
        None,
        cut,
        longer,
        flip_vector,
        flip_id,
        shifted_ids,
        lambda content: b"",
        lambda content: b"\x80\x04cos\nsystem\n",
        lambda content: b"{}\n",
    ],
)
def test_a_cache_that_is_absent_or_damaged_is_built_anew(path, old, vectors, damage, read_rows):
    file = cache(path, old)
    whole = file.read_bytes()
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(whole))
        assert file.read_bytes() != whole
    assert found(path, old, vectors, range(N)) == set(range(N))
    assert len(read_rows) == N
    assert len(loaded(path, old)) == N


def test_another_contracts_cache_is_not_taken(path, old, new, make_edge, vectors):
    with Gallery.open(path) as gallery:
        gallery.switch(new, make_edge(new, old))
        add(gallery, range(N, 2 * N), new, vectors)
        gallery.search(vectors(1), new)
    assert len(loaded(path, new)) == N
    shutil.copy(cache(path, old), cache(path, new))
    assert loaded(path, new) is None
    assert found(path, new, vectors, range(2 * N)) == set(range(2 * N))


def test_a_database_restored_from_a_backup(path, old, vectors, tmp_path):
    # both galleries go on from the same state to the same number of rows and changes
    backup = tmp_path / "backup.sqlite"
    shutil.copy(path / DATABASE, backup)
    with Gallery.open(path) as gallery:
        add(gallery, range(N, 2 * N), old, vectors)
        gallery.search(vectors(1), old)
    shutil.copy(backup, path / DATABASE)
    assert found(path, old, vectors, range(2 * N)) == set(range(N))
    with Gallery.open(path) as gallery:
        add(gallery, range(N, 2 * N), old, vectors)
        gallery.search(vectors(1), old)
    shutil.copy(backup, path / DATABASE)
    with Gallery.open(path) as gallery:
        add(gallery, range(3 * N, 4 * N), old, vectors)
    expected = set(range(N)) | set(range(3 * N, 4 * N))
    assert found(path, old, vectors, range(4 * N)) == expected


def test_a_contract_without_rows_keeps_no_cache(path, old, new, make_edge, vectors):
    with Gallery.open(path) as gallery:
        gallery.switch(new, make_edge(new, old))
        add(gallery, range(N), new, vectors, replace=True)
        gallery.search(vectors(1), new)
    assert [file.name for file in path.glob("*.rows")] == [f"index-{new.id}.rows"]


def test_a_folder_that_cannot_be_written_is_searched_all_the_same(path, old, vectors, monkeypatch):
    cache(path, old).unlink()

    def full(self, file):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(RowIndex, "write", full)
    assert found(path, old, vectors, range(N)) == set(range(N))
    assert not cache(path, old).exists()


def test_galleries_of_one_path_share_their_indexes(path, old, vectors, read_rows):
    forget = [file.unlink() for file in path.glob("index-*")]
    assert forget
    with Gallery.open(path) as one, Gallery.open(path) as other:
        one.search(vectors(1), old)
        assert len(read_rows) == N
        other.search(vectors(1), old)
        assert len(read_rows) == N
        add(other, [N], old, vectors)
        assert one.search(vector(vectors, N), old, k=1).of(0)[0].key == f"k{N}"
        other.search(vectors(1), old)
        assert len(read_rows) == N + 1


def test_following_one_changed_row_costs_its_own_work(path, old, vectors):
    """Counted in steps of SQLite's, which do not depend on the machine."""

    def steps(gallery):
        count = 0

        def tick():
            nonlocal count
            count += 1

        (connection,) = gallery._store._idle
        connection.set_progress_handler(tick, 1)
        gallery.search(vectors(1), old, k=3)
        connection.set_progress_handler(None, 1)
        return count

    seen = []
    with Gallery.open(path) as gallery:
        for more in (0, 5000):
            keys = [f"more {i}" for i in range(more)]
            gallery.enrol(keys, keys, vectors(more, 4), old)
            gallery.search(vectors(1), old)
            add(gallery, [3], old, vectors, replace=True)
            seen.append(steps(gallery))
    assert seen[1] < seen[0] + 100


def test_no_file_holds_what_was_pruned_and_no_other_file_goes(path, old, vectors, monkeypatch):
    def holding(number):
        one = vector(vectors, number).tobytes()
        return [file.name for file in path.iterdir() if file.is_file() and one in file.read_bytes()]

    left = path / f".index-{old.id}.rows.0123456789abcdef.partial"
    left.write_bytes(vector(vectors, 3).tobytes())
    theirs = path / "index-notes.rows", path / "index-mine", path / f"index-{'0' * 16}.rows"
    theirs[0].touch()
    [folder.mkdir() for folder in theirs[1:]]
    with Gallery.open(path) as gallery, Gallery.open(path) as other:
        assert other.status().rows == N
        gallery.remove(["k3"])
        gallery.prune()
        assert holding(3) == []
        assert all(file.exists() for file in theirs)

        # an index that is being written meanwhile gets no name
        write = RowIndex.write

        def slow(self, file):
            digest = write(self, file)
            if other.status().rows == N - 1:
                other.remove(["k4"])
                other.prune()
            return digest

        monkeypatch.setattr(RowIndex, "write", slow)
        gallery.search(vectors(1), old)
        assert holding(4) == []
        monkeypatch.undo()
        gallery.search(vectors(1), old)

        # nor does one of a contract that a restored backup does not know
        shared = gallery._store.database.shared
        (held,) = shared.held.values()
        shared.held = {("f" * 16, ""): replace(held, unsaved=N)}
        indexes.save(gallery._store, gallery._store.database, wait=True)
        assert not (path / f"index-{'f' * 16}.rows").exists()
