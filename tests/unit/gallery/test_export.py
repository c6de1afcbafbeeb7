"""A gallery's vectors for other engines: read back as others read them, without mixbct."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import psycopg
import pyarrow.parquet
import pytest
from pgvector.psycopg import register_vector

from mixbct.errors import ContractError, GalleryError
from mixbct.gallery import Gallery
from mixbct.gallery.export import export_files
from mixbct.gallery.export_table import export_table
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.linear_map import LinearMap

ROOT = Path(__file__).parents[3]
KEYS = [f"k{i}" for i in range(20)]


@pytest.fixture
def switched(tmp_path, old, new, make_edge, vectors):
    """A gallery of old rows behind a bridge of both sides, and of new rows."""
    with Gallery.create(tmp_path / "gallery", old) as gallery:
        labels = [None if i == 3 else f"person {i}" for i in range(20)]
        gallery.enrol(KEYS, labels, vectors(20, 1), old)
        gallery.switch(new, make_edge(new, old, seed=1))
        gallery.enrol(["n0", "n1 é\t"], ["a", "b"], vectors(2, 2), new)
        yield gallery


@pytest.fixture
def compatible(tmp_path, old, new, make_edge, vectors):
    """A gallery whose rows alone are mapped: into the new model's space."""
    rng = np.random.default_rng(5)
    side = LinearMap.of(rng.normal(size=(8, 8)), rng.normal(size=8) / 4)
    bridge = Bridge(kind="test", source=new, target=old, gallery=side)
    edge = make_edge(new, old).model_copy(update={"bridge": bridge})
    with Gallery.create(tmp_path / "gallery", old) as gallery:
        gallery.enrol(KEYS, KEYS, vectors(20, 1), old)
        gallery.switch(new, edge)
        gallery.enrol(["n0"], ["a"], vectors(1, 2), new)
        yield gallery


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def mapped(side, rows):
    matrix, offset = (np.asarray(each, float) for each in side.arrays)
    return unit(unit(rows.astype(float)) @ matrix + offset)


def read_part(folder, part, form):
    """Return ids, keys, labels and vectors of a part, as another program does."""
    for name, digest in part["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    if form == "parquet":
        (name,) = part["files"]
        table = pyarrow.parquet.read_table(folder / name).to_pydict()
        return table["id"], table["key"], table["label"], np.array(table["vector"], np.float32)
    arrays, lines = sorted(part["files"], reverse=True)
    rows = [json.loads(line) for line in (folder / lines).read_text("utf-8").splitlines()]
    vectors = np.load(folder / arrays)
    return (*([row[name] for row in rows] for name in ("id", "key", "label")), vectors)


@pytest.mark.parametrize("form", ["numpy", "parquet"])
def test_files_hold_all_rows_as_a_search_compares_them(
    switched, old, new, vectors, make_edge, tmp_path, form, monkeypatch
):
    monkeypatch.setattr("mixbct.gallery.export._BLOCKS", 1)
    monkeypatch.setattr("mixbct.gallery.snapshot.BLOCK", 8)
    out, seen = tmp_path / "out", []
    with switched.read() as snapshot:
        export_files(snapshot, switched.place, out, form, lambda *done: seen.append(done))
        ids = snapshot.ids([*KEYS, "n0", "n1 é\t"])
    assert seen[-1] == (22, 22)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["query_model"]["name"] == "new"
    found = {each["contract"]["name"]: each for each in manifest["contracts"]}
    assert [part["rows"] for part in found["old"]["parts"]] == [8, 8, 4]
    expected = {
        "old": (KEYS, mapped(make_edge(new, old, seed=1).bridge.gallery, vectors(20, 1))),
        "new": (["n0", "n1 é\t"], vectors(2, 2)),
    }
    queries = vectors(3, 9)
    hits = switched.search(queries, new, 5)
    scores, names = [], []
    for name, (keys, rows) in expected.items():
        folder = out / found[name]["folder"]
        parts = [read_part(folder, part, form) for part in found[name]["parts"]]
        there = [key for part in parts for key in part[1]]
        assert there == keys
        assert [id for part in parts for id in part[0]] == [ids[key] for key in keys]
        labels = [label for part in parts for label in part[2]]
        assert labels[3:4] == ([None] if name == "old" else [])
        read = np.concatenate([part[3] for part in parts])
        assert read.dtype == np.float32
        assert read.shape == (len(keys), found[name]["dim"])
        np.testing.assert_allclose(read, rows, atol=1e-6)
        asked = queries
        if found[name]["query_map"]:
            asked = queries @ np.load(folder / "query-matrix.npy")
            asked = unit(asked + np.load(folder / "query-offset.npy"))
        assert (found[name]["threshold"] is None) == (name == "new")
        scores.append(asked @ read.T)
        names += keys
    every = np.concatenate(scores, 1)
    best = np.argsort(-every, axis=1)[:, :5]
    assert [[hits.items[id].key for id in row] for row in hits.ids.tolist()] == [
        [names[place] for place in row] for row in best
    ]


def test_files_are_whole_or_not_there(switched, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def stop(done, total):
        raise KeyboardInterrupt

    with switched.read() as snapshot:
        with pytest.raises(KeyboardInterrupt):
            export_files(snapshot, switched.place, out, "numpy", stop)
        assert [path.name for path in tmp_path.iterdir()] == ["gallery"]
        export_files(snapshot, switched.place, out, "numpy")
        with pytest.raises(GalleryError, match="there already"):
            export_files(snapshot, switched.place, out, "numpy")


def test_the_pages_lines_for_qdrant_find_what_the_gallery_finds(
    switched, new, vectors, tmp_path, monkeypatch
):
    """docs/other-engines.md, run as it stands, with Qdrant's engine in this process."""
    with switched.read() as snapshot:
        export_files(snapshot, switched.place, tmp_path / "export", "numpy")
    page = (ROOT / "docs" / "other-engines.md").read_text()
    load, query = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:2]
    load = load.replace('QdrantClient("http://localhost:6333")', 'QdrantClient(":memory:")')
    monkeypatch.chdir(tmp_path)
    space = {}
    for code in (load, query):
        exec(compile(code, "docs/other-engines.md", "exec"), space)
    for vector in vectors(3, 9):
        found = space["search"](vector * 7, k=5)
        hits = switched.search(vector[None], new, 5).of(0)
        assert [hit.key for hit in hits] == [key for _, key in found]
        np.testing.assert_allclose([s for s, _ in found], [hit.score for hit in hits], atol=1e-5)


# --- into a table


@pytest.fixture
def product(postgres_url):
    """Return a connection to a product's tables, made as the product makes them."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        register_vector(connection)
        connection.execute(
            'CREATE SCHEMA shop; CREATE TABLE shop."Face Search" (id text PRIMARY KEY, '
            "embedding vector(8), empty vector(8), price int)"
        )
        for place in range(18):
            connection.execute(
                'INSERT INTO shop."Face Search" VALUES (%s, %s, NULL, 7)',
                (f"k{place}", np.full(8, place)),
            )
        yield connection


def dump(connection, columns="*"):
    return connection.execute(f'SELECT {columns} FROM shop."Face Search" ORDER BY id').fetchall()


def test_a_column_holds_old_rows_in_the_new_models_space(
    compatible, postgres_url, product, vectors, new, monkeypatch
):
    monkeypatch.setattr("mixbct.gallery.snapshot.BLOCK", 6)
    before = dump(product)
    with compatible.read() as snapshot:
        side = snapshot.edges()[0].bridge.gallery
        report = export_table(snapshot, postgres_url, "shop.Face Search", 'in "new" space')
    assert (report.rows, report.written, report.unchanged, report.missing) == (21, 18, 0, 3)
    assert [tuple(map(str, row)) for row in dump(product, "id, embedding, empty, price")] == [
        tuple(map(str, row)) for row in before
    ]
    # an application that knows nothing of mixbct: plain cosine
    queries = vectors(4, 8)
    rows = mapped(side, vectors(20, 1))[:18]
    for query in queries:
        found = product.execute(
            'SELECT id FROM shop."Face Search" ORDER BY "in ""new"" space" <=> %s LIMIT 5', (query,)
        ).fetchall()
        best = np.argsort(-(rows @ query.astype(float)))[:5]
        assert [id for (id,) in found] == [f"k{place}" for place in best]
    # run again: it goes on with what is not there, and changes nothing else
    product.execute("""UPDATE shop."Face Search" SET "in ""new"" space" = NULL WHERE id < 'k15'""")
    with compatible.read() as snapshot:
        again = export_table(snapshot, postgres_url, "shop.Face Search", 'in "new" space')
    assert again.written == sum(f"k{i}" < "k15" for i in range(18))
    assert again.written + again.unchanged == 18


def test_a_table_that_is_not_there_is_made(compatible, postgres_url, product, vectors):
    for written in (21, 0):
        with compatible.read() as snapshot:
            report = export_table(snapshot, postgres_url, "faces_new", "vector")
        assert (report.written, report.unchanged) == (written, 21 - written)
    found = dict(product.execute("SELECT key, vector FROM faces_new").fetchall())
    assert sorted(found) == sorted([*KEYS, "n0"])
    np.testing.assert_allclose(found["n0"].to_numpy(), vectors(1, 2)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("table", "column", "key", "says"),
    [
        ("shop.Face Search", "embedding", None, "'embedding' .* is there already, as vector"),
        ("shop.Face Search", "price", None, "'price' .* is there already, as integer"),
        ("shop.Face Search", "more", "name", "no column 'name'; name the column .*id, embedding"),
        ("shop.bare", "more", None, "no primary key of one column"),
        ("nowhere.t", "more", None, "nowhere"),
    ],
)
def test_nothing_that_is_there_is_written_over(
    compatible, postgres_url, product, table, column, key, says
):
    product.execute("CREATE TABLE shop.bare (name text)")
    before = [str(row) for row in dump(product)]
    with compatible.read() as snapshot, pytest.raises(GalleryError, match=says):
        export_table(snapshot, postgres_url, table, column, key)
    assert [str(row) for row in dump(product)] == before
    assert product.execute("SELECT * FROM shop.bare").description[-1].name == "name"


def test_an_empty_column_of_the_right_type_may_be_filled(compatible, postgres_url, product):
    with compatible.read() as snapshot:
        assert export_table(snapshot, postgres_url, "shop.Face Search", "empty", "id").written == 18


def test_rows_that_queries_must_be_mapped_for_are_refused(switched, postgres_url):
    with switched.read() as snapshot, pytest.raises(ContractError, match="no other program does"):
        export_table(snapshot, postgres_url, "t", "c")
