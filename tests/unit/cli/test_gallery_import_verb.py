"""`mixbct gallery import`: what it says, what it makes, and that it can be run again."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mixbct.cli.gallery import app
from mixbct.errors import ContractError, GalleryError, MixbctError
from mixbct.gallery import Gallery

ROWS, DIM = 30, 5
VECTORS = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
UNIT = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(tmp_path / "old.npz", VECTORS)


def save(path: Path, vectors: np.ndarray, labels: str = "ab") -> Path:
    keys = [f"item {i}" for i in range(len(vectors))]
    named = [labels[i % 2] for i in range(len(vectors))]
    np.savez(path, vectors=vectors, keys=np.array(keys), labels=np.array(named))
    return path


def run(*words: object) -> str:
    done = CliRunner().invoke(app, ["import", *map(str, words)], catch_exceptions=True)
    if isinstance(done.exception, MixbctError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def imported(*words: object) -> dict:
    return json.loads(run(*words, "--json"))


def there(gallery: Path) -> dict[str, tuple[str, np.ndarray]]:
    with sqlite3.connect(gallery / "gallery.sqlite") as database:
        rows = database.execute("SELECT key, label, vector FROM rows_1 ORDER BY id").fetchall()
    database.close()
    return {key: (label, np.frombuffer(vector, dtype=np.float32)) for key, label, vector in rows}


def test_a_gallery_is_made_and_the_same_command_changes_nothing(
    tmp_path: Path, source: Path
) -> None:
    gallery = tmp_path / "gallery"
    said = run(gallery, source, "--contract", "the old one", "--batch", "7")
    assert f"{ROWS} items of the old one" in said
    assert "with norm 1" in said
    assert said.splitlines()[-1] == f"next: mixbct gallery status {gallery}"
    rows = there(gallery)
    assert [*rows] == [f"item {i}" for i in range(ROWS)]
    assert rows["item 3"][0] == "b"
    assert np.allclose([vector for _, vector in rows.values()], UNIT, atol=1e-6)
    again = imported(gallery, source, "--contract", "the old one")
    assert again["stored"] | {"gallery": ""} == {
        "gallery": "",
        "added": 0,
        "replaced": 0,
        "unchanged": ROWS,
        "rows": ROWS,
    }
    with Gallery.open(gallery) as opened:
        contract = opened.query_model().contract
        assert contract.name == "the old one"
        assert opened.search(VECTORS[:1], contract).of(0)[0].key == "item 0"


def test_it_goes_on_where_another_left_off(tmp_path: Path, source: Path) -> None:
    gallery = tmp_path / "gallery"
    save(tmp_path / "first.npz", VECTORS[:11])
    run(gallery, tmp_path / "first.npz", "--contract", "old")
    done = imported(gallery, source, "--contract", "old", "--batch", "4")["stored"]
    assert (done["added"], done["unchanged"], done["rows"]) == (ROWS - 11, 11, ROWS)


def test_other_rows_under_a_key_are_refused_or_replaced(tmp_path: Path, source: Path) -> None:
    gallery = tmp_path / "gallery"
    run(gallery, source, "--contract", "old")
    other = VECTORS.copy()
    other[3:5] = -other[3:5]
    save(tmp_path / "other.npz", other)
    with pytest.raises(GalleryError, match=r"2 of 2 keys .*item 3, item 4.*--replace"):
        run(gallery, tmp_path / "other.npz", "--contract", "old")
    assert np.allclose(there(gallery)["item 3"][1], UNIT[3], atol=1e-6)
    done = imported(gallery, tmp_path / "other.npz", "--contract", "old", "--replace")["stored"]
    assert (done["replaced"], done["unchanged"], done["rows"]) == (2, ROWS - 2, ROWS)
    assert np.allclose(there(gallery)["item 3"][1], -UNIT[3], atol=1e-6)


def test_bad_rows_stop_it_or_are_left_out(tmp_path: Path) -> None:
    gallery, vectors = tmp_path / "gallery", VECTORS.copy()
    vectors[9], vectors[20, 1] = 0, np.nan
    bad = save(tmp_path / "bad.npz", vectors)
    with pytest.raises(GalleryError, match=r"1 with zero vectors \(item 9\).*8 rows before"):
        run(gallery, bad, "--contract", "old", "--batch", "4")
    assert len(there(gallery)) == 8
    said = run(gallery, bad, "--contract", "old", "--skip-bad")
    assert "8 there already" in said
    assert "left out 1 with zero vectors: item 9" in said
    assert there(gallery).keys() == {f"item {i}" for i in range(ROWS) if i not in (9, 20)}


def test_vectors_of_another_model_need_an_edge(tmp_path: Path, source: Path) -> None:
    gallery = tmp_path / "gallery"
    run(gallery, source, "--contract", "old")
    with pytest.raises(ContractError, match="no recorded edge"):
        run(gallery, source, "--contract", "another")
    with pytest.raises(ContractError, match="--contract NAME"):
        run(tmp_path / "none", source)
    assert not (tmp_path / "none").exists()


def test_a_table_into_postgresql(tmp_path: Path, postgres_url: str) -> None:
    with sqlite3.connect(tmp_path / "app.db") as database:
        database.execute("CREATE TABLE faces (id TEXT, embedding BLOB, model TEXT)")
        rows = [(f"f{i}", vector.tobytes(), "arcface") for i, vector in enumerate(VECTORS)]
        database.executemany("INSERT INTO faces VALUES (?, ?, ?)", rows)
    database.close()
    columns = ["--table", "faces", "--key", "id", "--vector", "embedding"]
    words = [postgres_url, tmp_path / "app.db", *columns, "--contract-column", "model"]
    done = imported(*words, "--batch", "9")
    assert (done["contract"]["name"], done["stored"]["added"]) == ("arcface", ROWS)
    assert imported(*words)["stored"]["unchanged"] == ROWS
    with Gallery.open(postgres_url) as opened:
        hit = opened.search(VECTORS[7:8], opened.query_model().contract).of(0)[0]
        assert (hit.key, hit.label) == ("f7", None)
