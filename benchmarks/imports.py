"""An import into a gallery, beside a bare executemany of the same rows in one transaction."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import numpy as np

from benchmarks.data import DIM, clustered_vectors
from benchmarks.measure import Figure, in_turn, rate_figure
from mixbct.gallery import Gallery
from mixbct.gallery.foreign import open_source
from mixbct.gallery.foreign.screening import Screening

ROWS = 1_000_000
BATCH = 8192


def run(folder: Path) -> list[Figure]:
    """Return import/sqlite: rows a second, read from a .npy file with keys and labels.

    The reference stores the same keys, labels and vectors in a table with a unique key, from
    memory: nothing is read, checked, normalised or summed.
    """
    labels = np.arange(ROWS) % 10_000
    np.save(folder / "old.npy", clustered_vectors(labels, DIM, seed=4))
    keys, names = [f"item {i}" for i in range(ROWS)], [str(label) for label in labels]
    (folder / "keys.txt").write_text("\n".join(keys), encoding="utf-8")
    (folder / "labels.txt").write_text("\n".join(names), encoding="utf-8")
    vectors = np.load(folder / "old.npy", mmap_mode="r")

    def measured() -> None:
        shutil.rmtree(folder / "gallery", ignore_errors=True)
        source = open_source(
            str(folder / "old.npy"),
            "old",
            keys=str(folder / "keys.txt"),
            labels=str(folder / "labels.txt"),
        )
        batches = Screening(source, skip_bad=False).batches(BATCH, lambda done, total: None)
        with Gallery.create(folder / "gallery", source.contract) as gallery:
            assert gallery.import_rows(batches).added == ROWS

    def reference() -> None:
        shutil.rmtree(folder / "bare", ignore_errors=True)
        (folder / "bare").mkdir()
        with contextlib.closing(sqlite3.connect(folder / "bare" / "bare.sqlite")) as connection:
            connection.execute("PRAGMA page_size = 8192")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(
                "CREATE TABLE items (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, "
                "label TEXT, vector BLOB NOT NULL)"
            )
            rows = zip(keys, names, map(np.ndarray.tobytes, vectors), strict=True)
            with connection:
                connection.executemany(
                    "INSERT INTO items (key, label, vector) VALUES (?, ?, ?)", rows
                )

    pairs = in_turn(measured, reference, for_seconds=0, warm_up=0, at_least=3)
    return [rate_figure("import/sqlite", "rows/s", pairs, ROWS)]
