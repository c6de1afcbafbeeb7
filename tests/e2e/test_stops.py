"""A signal at any moment of any verb: exit 3, one line, and the same command then finishes."""

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nursery import EVERY_VERB

from mixbct.data.bank import FeatureBank
from mixbct.gallery import Gallery
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge

BEFORE = """
import json, signal
from mixbct import cli
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & lets it be ignored
"""
FORKED = """
words, folder = json.loads(line)
os.chdir(folder)
sys.argv = ["mixbct", *words]
os.dup2(os.open("stdout", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
os.dup2(os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
cli._on_stop(cli._leave)  # as the first line of main does, before a signal may come
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT])
cli.main()
"""

Run = Callable[..., tuple[int, str]]
MOMENTS = (0.0, 0.03, 0.1, 0.4)


@pytest.fixture(scope="module")
def run(nursery: Callable[..., Any]) -> Run:
    """Run a command, with a signal after so many seconds and `once` something holds.

    Return its exit code and its errors.
    """
    born = nursery(EVERY_VERB + BEFORE, FORKED)

    def run(
        folder: Path,
        *words: str,
        number: int | None = None,
        after: float = 0.0,
        once: Callable[[], bool] = lambda: True,
    ) -> tuple[int, str]:
        child = born.fork(json.dumps([words, str(folder)]))
        if number is not None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):  # it has ended, and was waited for
                while not once():
                    os.kill(child, 0)
                    time.sleep(0.005)
                os.kill(child, number)
        return born.code(), (folder / "stderr").read_text(encoding="utf-8")

    return run


@pytest.fixture(scope="module")
def trained(run: Run, shared_photos: Path) -> Path:
    """Return the folder of photographs with a split, a model and a bank."""
    tiny = ["--set", "data.path=photos", "--set", "model.channels=3", "--set", "train.epochs=1"]
    for words in (
        ["data", "split", "photos", "--out", "split"],
        ["train", "recipes/tiny.toml", *tiny, "--set", "data.split=split", "--out", "model"],
        ["extract", "model", "--data", "photos", "--out", "bank"],
    ):
        code, said = run(shared_photos, *words)
        assert code == 0, said
    return shared_photos


VERBS = {
    "data split": ["data", "split", "photos", "--out", "OUT"],
    "data convert": ["data", "convert", "photos", "OUT"],
    "extract": ["extract", "model", "--data", "photos", "--batch", "16", "--out", "OUT"],
    "denoise": ["denoise", "bank"],
    "eval": [
        *["eval", "--old", "model", "--new", "model", "--data", "photos", "--split", "split"],
        *["--out", "OUT.json"],
    ],
    "gallery enrol": ["gallery", "enrol", "OUT", "--bank", "bank"],
}
AGAIN = {"extract": ["--resume"], "eval": ["--resume"], "gallery enrol": ["--replace"]}


@pytest.mark.parametrize("name", VERBS)
def test_a_stop_at_any_moment(run: Run, trained: Path, name: str) -> None:
    codes = []
    for place, after in enumerate(MOMENTS):
        words = [word.replace("OUT", f"{name.split()[-1]}-{place}") for word in VERBS[name]]
        if name == "gallery enrol":
            assert (
                run(trained, "gallery", "init", f"{name.split()[-1]}-{place}", "--model", "model")[
                    0
                ]
                == 0
            )
        number = (signal.SIGTERM, signal.SIGINT)[place % 2]
        code, said = run(trained, *words, number=number, after=after)
        assert code in (0, 3), said
        assert "Traceback" not in said
        codes.append(code)
        if code == 3:
            assert "run the same command again" in said
            code, said = run(trained, *words, *AGAIN.get(name, []))
            assert code == 0 or "is there already" in said, said  # it was done when the stop came
    assert 3 in codes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_backfill_that_is_stopped_goes_on(
    run: Run, trained: Path, tmp_path: Path, number: int
) -> None:
    bank = FeatureBank(trained / "bank")
    new, place = bank.manifest.contract, tmp_path / "gallery"
    old = Contract(name="old", weights="old", preprocessing=None, dim=new.dim)
    edge = Edge(from_contract=new, to_contract=old, result_digest="0" * 64, threshold=0.5, far=1e-3)

    def own_rows() -> int:
        with Gallery.open(place) as gallery:
            return gallery.status().own_rows

    with Gallery.create(place, old) as gallery:
        gallery.enrol(bank.keys(), [None] * len(bank), bank.all(), old)
        gallery.switch(new, edge, model=trained / "model" / "model")
    words = ["gallery", "backfill", str(place), "photos", "--order", "credible"]
    code, said = run(trained, *words, "--rate", "8/s", number=number, once=lambda: own_rows() > 0)
    assert code == 3, said
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert 0 < own_rows() < len(bank)
    code, said = run(trained, *words)
    assert code == 0, said
    assert own_rows() == len(bank)


KILLS, ROWS, DIM, AT_ONCE = 50, 2000, 8, 20


def rows_of(gallery: Path) -> list[tuple[str, bytes]]:
    """Return keys and vectors in the order in which they were stored; none where no table is."""
    path = gallery / "gallery.sqlite"
    if not path.is_file():
        return []
    with contextlib.closing(sqlite3.connect(path)) as database:
        try:
            return database.execute("SELECT key, vector FROM rows_1 ORDER BY id").fetchall()
        except sqlite3.OperationalError:
            return []


def test_fifty_kills_over_imports(run: Run, tmp_path: Path) -> None:
    """Whenever it is killed, the gallery holds the source's first batches, each row once."""
    rng = np.random.default_rng(8)
    vectors = rng.standard_normal((ROWS, DIM), dtype=np.float32)
    keys = [f"item {i}" for i in range(ROWS)]
    np.savez(tmp_path / "old.npz", vectors=vectors, keys=np.array(keys))
    stored = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    kills = galleries = partly = 0
    while True:
        gallery = tmp_path / f"gallery-{galleries}"
        words = ["gallery", "import", gallery.name, "old.npz", "--contract", "old"]
        words += ["--batch", str(AT_ONCE), "--json"]
        # one of four at any moment, the others while rows are stored; the last gallery is finished
        wanted = (
            len(rows_of(gallery)) + int(rng.integers(1, ROWS // 4)) if rng.random() < 0.75 else 0
        )
        code, said = run(
            tmp_path,
            *words,
            number=signal.SIGKILL if kills < KILLS else None,
            after=0 if wanted else rng.uniform(0, 0.3),
            once=lambda rows=wanted, there=gallery: len(rows_of(there)) >= rows,
        )
        assert code in (0, -signal.SIGKILL), said
        found = rows_of(gallery)
        assert len(found) % AT_ONCE == 0
        assert [key for key, _ in found] == keys[: len(found)]
        there = np.frombuffer(b"".join(vector for _, vector in found), dtype=np.float32)
        assert np.allclose(there.reshape(-1, DIM), stored[: len(found)], atol=1e-6)
        kills += code != 0
        partly += 0 < len(found) < ROWS
        if code == 0:
            assert json.loads((tmp_path / "stdout").read_text())["stored"]["rows"] == ROWS
            galleries += 1
            if kills == KILLS:
                break
    assert galleries > 1
    assert partly >= 15, "the kills fell beside the imports"
