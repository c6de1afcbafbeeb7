"""Fifty kills of a backfill while another process searches: nothing lost, nothing done twice.

A process that has imported everything forks once a kill; the rows say what was done.
"""

import os
import random
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch

from mixbct.backbones.linear import LinearBackbone
from mixbct.backbones.model import EmbeddingModel
from mixbct.data.bank import normalise
from mixbct.data.source import Source
from mixbct.errors import BadImageError
from mixbct.features.ordering import Order
from mixbct.gallery import Gallery
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge
from mixbct.schemas.model import ModelManifest, VectorInput
from mixbct.workflows import backfill as module

KILLS, AT_ONCE, ROWS, DIM = 50, 4, 1200, 8
ORDERS: tuple[Order, ...] = ("random", "credible", "items", "hits")
OLD = Contract(name="old", weights="old", preprocessing=None, dim=DIM)
NEW = Contract(
    name="new", weights="new", preprocessing=VectorInput(encoder="e", dim=DIM, name="e"), dim=DIM
)
KEYS = [f"k{i}" for i in range(ROWS)]
LABELS = [f"c{i % 37}" if i % 11 else None for i in range(ROWS)]
MISSING, BAD = set(KEYS[::100]), {"k7", "k1004"}

NURSERY = """
import os, sys
sys.path.insert(0, {here!r})
from pathlib import Path
import test_backfill_kills as this
searcher = os.fork()
if not searcher:
    this.keep_searching(Path({folder!r}))
print(searcher, flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        this.go_on(Path({folder!r}), int(line))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os.kill(searcher, 15)
print(os.waitstatus_to_exitcode(os.waitpid(searcher, 0)[1]), flush=True)
"""


@cache
def rows(seed: int) -> np.ndarray:
    return normalise(np.random.default_rng(seed).standard_normal((ROWS, DIM)))


class Items(Source):
    """What the items are seen as; two cannot be read."""

    def digest(self) -> str:
        return "made up"

    def read(self, places: np.ndarray) -> np.ndarray:
        keys = [self.keys()[row] for row in places]
        if bad := BAD.intersection(keys):
            raise BadImageError("no image", sorted(bad))
        return rows(2)[[int(key[1:]) for key in keys]]


def items() -> Items:
    keys = [key for key in reversed(KEYS) if key not in MISSING]
    return Items("items", keys, np.zeros(len(keys), np.int64), ("all",))


@cache
def model() -> EmbeddingModel:
    torch.manual_seed(0)
    return EmbeddingModel(LinearBackbone(DIM, DIM), ModelManifest(backbone="linear", contract=NEW))


def go_on(folder: Path, number: int) -> None:
    """Take the backfill up where the last one was killed; end well where there is no more."""
    module.AT_ONCE, module.BETWEEN = AT_ONCE, 0.0
    with Gallery.open(folder / "gallery") as gallery:
        module.backfill(gallery, model(), items(), order=ORDERS[number % 4], seed=number)
    os._exit(0)


def keep_searching(folder: Path) -> None:
    """Search all the time, and end badly where an item is not found, or found twice."""
    going = True

    def stop(*_: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    queries, searches = rows(3)[:2], 0
    with Gallery.open(folder / "gallery") as gallery:
        while going:
            hits = gallery.search(queries, NEW, k=ROWS)
            keys = {item.key for item in hits.items.values()}
            if len(keys) < ROWS or any(len({*ids}) < ROWS for ids in hits.ids.tolist()):
                os._exit(1)
            searches += 1
            time.sleep(0.01)
    os._exit(0 if searches > 20 else 2)


def own_rows(gallery: Gallery) -> int:
    with gallery.read() as snapshot:
        return sum(rows for contract, rows in snapshot.contracts() if contract.id == NEW.id)


def done(gallery: Gallery) -> dict[str, int]:
    """Return the ids of what is done, having held every row to what it must be."""
    expected = {
        OLD.id: rows(1),
        NEW.id: normalise(model().embed(torch.from_numpy(rows(2))).numpy()),
    }
    with gallery.read() as snapshot:
        ids = snapshot.ids(KEYS)
        there, vectors = snapshot.items(ids.values()), snapshot.vectors(ids.values())
        assert [*ids] == KEYS
        assert sum(stored.rows for stored in snapshot.contracts()) == ROWS
    kinds = [there[id].contract_id for id in ids.values()]
    assert [there[id].label for id in ids.values()] == LABELS
    wanted = np.stack([expected[kind][row] for row, kind in enumerate(kinds)])
    found = np.stack([vectors[id] for id in ids.values()])
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    return {key: id for (key, id), kind in zip(ids.items(), kinds, strict=True) if kind == NEW.id}


def test_nothing_is_lost_and_nothing_done_twice(tmp_path: Path) -> None:
    edge = Edge(from_contract=NEW, to_contract=OLD, result_digest="0" * 64, threshold=0.5, far=1e-3)
    with Gallery.create(tmp_path / "gallery", OLD) as gallery:
        gallery.enrol(KEYS, LABELS, rows(1), OLD)
        gallery.switch(NEW, edge)
        gallery.count_hits({key: 1 + row % 5 for row, key in enumerate(KEYS) if row % 3})
    nursery = subprocess.Popen(
        [
            sys.executable,
            "-c",
            NURSERY.format(here=str(Path(__file__).parent), folder=str(tmp_path)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    int(nursery.stdout.readline())
    rng, before, moved = random.Random(0), {}, 0
    with Gallery.open(tmp_path / "gallery") as gallery:
        for kill in range(KILLS):
            nursery.stdin.write(f"{kill}\n")
            nursery.stdin.flush()
            child = int(nursery.stdout.readline())
            target = len(before) + rng.randrange(5) * AT_ONCE
            while Path(f"/proc/{child}/stat").exists() and own_rows(gallery) < target:
                time.sleep(0.001)
            time.sleep(rng.choice([0, rng.uniform(0, 0.01)]))
            os.kill(child, signal.SIGKILL)
            assert int(nursery.stdout.readline()) == -signal.SIGKILL
            now = done(gallery)
            assert before.items() <= now.items()  # the same versions: none was made twice
            moved += len(now) > len(before)
            before = now
        assert moved > KILLS / 2
        nursery.stdin.write("3\n")
        nursery.stdin.flush()
        nursery.stdout.readline()
        assert int(nursery.stdout.readline()) == 0
        nursery.stdin.close()
        assert int(nursery.stdout.readline()) == 0  # the searcher, which always found all
        nursery.stdout.close()
        nursery.wait(timeout=60)
        assert done(gallery).keys() == {*KEYS} - MISSING - BAD
        with gallery.read() as snapshot:
            for row, key in enumerate(KEYS):
                assert len(snapshot.versions(key)) == 2 - (key in MISSING | BAD), row
        assert gallery.faults() == []
        gallery.rollback()
        assert done(gallery) == {}
