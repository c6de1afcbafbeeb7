"""Tables of SQLite files that other programs wrote."""

import json
import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mixbct.errors import ContractError, DataError, GalleryError, MixbctError
from mixbct.gallery.foreign import Columns, VectorSource, open_source
from mixbct.gallery.foreign.rows import chosen_name
from mixbct.gallery.foreign.tables import parts_of

VECTORS = np.random.default_rng(1).normal(size=(40, 6))
FACES = Columns(table="faces", key="id", vector="embedding", label="who")


def as_float32(row: Sequence[float]) -> bytes:
    return b"".join(struct.pack("<f", number) for number in row)


def as_float64(row: Sequence[float]) -> bytes:
    return b"".join(struct.pack("<d", number) for number in row)


def as_json(row: Sequence[float]) -> str:
    return json.dumps([*row])


def make(path: Path, pack=as_float32, vectors: np.ndarray = VECTORS) -> str:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE faces (id INTEGER PRIMARY KEY, who TEXT, embedding)")
        connection.executemany(
            "INSERT INTO faces VALUES (?, ?, ?)",
            [(i, "ab"[i % 2] if i % 3 else None, pack(row)) for i, row in enumerate(vectors)],
        )
    connection.close()
    return str(path)


def vectors_of(source: VectorSource) -> np.ndarray:
    return np.concatenate([batch.vectors for batch in source.read(7)])


@pytest.mark.parametrize("pack", [as_float32, as_float64, as_json])
def test_each_way_to_write_a_vector(tmp_path: Path, pack) -> None:
    source = open_source(make(tmp_path / "app.db", pack), "old", FACES)
    assert (source.rows, source.contract.dim) == (40, 6)
    assert np.array_equal(vectors_of(source), VECTORS.astype(np.float32))
    first = next(source.read(7))
    assert first.keys == [str(i) for i in range(7)]
    assert first.labels == [None, "b", "a", None, "a", "b", None]
    assert ("float64" in source.notes[0]) == (pack is as_float64)


def test_float64_that_were_float32_once(tmp_path: Path) -> None:
    vectors = VECTORS.astype(np.float32).astype(np.float64)
    source = open_source(make(tmp_path / "app.db", as_float64, vectors), "old", FACES)
    assert np.array_equal(vectors_of(source), vectors.astype(np.float32))


def test_rows_that_are_no_vectors_are_named(tmp_path: Path) -> None:
    path = make(tmp_path / "app.db")
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "UPDATE faces SET embedding = ? WHERE id = ?",
            [
                (None, 3),
                (as_float32(VECTORS[0, :5]), 4),
                ("[1, 2, {}]", 5),
                ("[" * 9999, 6),
                (7, 7),
            ],
        )
    (batch,) = open_source(path, "old", FACES).read(100)
    assert batch.bad == {"no vector": ["3", "5", "6", "7"], "vectors of another dimension": ["4"]}
    assert len(batch.keys) == 35


def test_a_column_that_names_the_contract(tmp_path: Path) -> None:
    path = make(tmp_path / "app.db")
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE faces ADD COLUMN model TEXT")
        connection.execute("UPDATE faces SET model = CASE WHEN id < 30 THEN 'a''b' END")
    columns = FACES._replace(contract="model")
    with pytest.raises(ContractError, match=r"'' \(10 rows\), \"a'b\" \(30 rows\)"):
        open_source(path, None, columns)
    source = open_source(path, "a'b", columns)
    assert (source.contract.name, source.rows) == ("a'b", 30)
    assert len(vectors_of(source)) == 30
    with pytest.raises(ContractError, match="none of 'c'"):
        open_source(path, "c", columns)


def test_names_that_must_be_quoted(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "app.db") as connection:
        connection.execute('CREATE TABLE "my ""faces""; --" ("the key", "select" BLOB)')
        connection.execute(
            'INSERT INTO "my ""faces""; --" VALUES (?, ?)', ("k", as_float32(VECTORS[0]))
        )
    columns = Columns('my "faces"; --', "the key", "select")
    (batch,) = open_source(str(tmp_path / "app.db"), "old", columns).read(3)
    assert batch.keys == ["k"]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    path = make(tmp_path / "app.db")
    with pytest.raises(DataError, match=r"no table that can be read; there are main\.faces"):
        open_source(path, "old", FACES._replace(table="people"))
    with pytest.raises(DataError, match="no column 'x', but 'id', 'who', 'embedding'"):
        open_source(path, "old", FACES._replace(vector="x"))
    with pytest.raises(DataError, match="--table, --key and --vector"):
        open_source(path, "old")
    with pytest.raises(GalleryError, match="no vectors there"):
        open_source(path, "old", FACES._replace(vector="who"))
    with pytest.raises(DataError, match="cannot be used here: the source is an SQLite file"):
        open_source(path, "old", preset="immich")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE VIEW seen AS SELECT * FROM faces")
    with pytest.raises(DataError, match="no table"):
        open_source(path, "old", FACES._replace(table="seen"))


def test_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path = Path(make(tmp_path / "app.db"))
    before = path.read_bytes()
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        vectors_of(open_source(str(path), "old", FACES))
    finally:
        tmp_path.chmod(0o755)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["app.db"]


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (
            "id TEXT, collection_id TEXT, person_id TEXT, embedding BLOB, model_id TEXT, "
            "model_version TEXT, model_digest TEXT, preprocessing_version TEXT",
            "buffalo_l 0.7 sha256:ab 2",
        ),
        ("id TEXT, collection_id TEXT, person_id TEXT, embedding BLOB, model_id TEXT", "buffalo_l"),
    ],
)
def test_insightface_server(tmp_path: Path, columns: str, name: str) -> None:
    path = tmp_path / "faces.db"
    values = ["buffalo_l", "0.7", "sha256:ab", "2"][: columns.count(",") - 3]
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE face_samples ({columns})")
        for i, row in enumerate(VECTORS):
            fields = [f"s{i}", "staff", f"p{i // 4}", as_float32(row), *values]
            marks = ", ".join("?" * len(fields))
            connection.execute(f"INSERT INTO face_samples VALUES ({marks})", fields)
    source = open_source(str(path), None, preset="insightface-server")
    (batch,) = source.read(100)
    assert source.contract.name == name
    assert (batch.keys[5], batch.labels[5]) == ("s5", "p1")
    assert np.array_equal(batch.vectors, VECTORS.astype(np.float32))


def test_mutated_files_end_in_named_errors(tmp_path: Path) -> None:
    path = Path(make(tmp_path / "app.db"))
    whole, rng = path.read_bytes(), np.random.default_rng(5)
    refused = 0
    for turn in range(300):
        content = bytearray(whole)
        # the header and the schema's page hold what everything else follows from
        most = len(whole) if turn % 2 else 300
        for at in rng.integers(16, most, rng.integers(1, 5)):
            content[at] = rng.integers(0, 256)
        path.write_bytes(content[: rng.integers(17, len(whole))] if turn % 5 == 0 else content)
        try:
            for batch in open_source(str(path), "old", FACES).read(9):
                assert len(batch.keys) == len(batch.labels) == len(batch.vectors)
        except MixbctError:
            refused += 1
    assert refused > 60


def test_rows_that_name_no_model_are_of_the_declared_one():
    assert chosen_name({"": 3}, "mine", "a table") == ""
    assert chosen_name({"": 3, "mine": 2}, "mine", "a table") == "mine"
    for found, wanted in (({"": 3, "a": 2}, "mine"), ({"a": 2}, "mine"), ({}, "mine")):
        with pytest.raises(ContractError, match="none of 'mine'"):
            chosen_name(found, wanted, "a table")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("faces", ["faces"]),
        ("app.faces", ["app", "faces"]),
        ('app."odd.name"', ["app", "odd.name"]),
        ('"my.app"."a""b"', ["my.app", 'a"b']),
        ('"odd.name"', ["odd.name"]),
        ('a"b', ['a"b']),
    ],
)
def test_a_table_is_named_with_its_schema_or_without(name, parts):
    assert parts_of(name) == parts
