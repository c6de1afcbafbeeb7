"""Kills at random moments of enrolments, switches, rollbacks: what is there was asked for.

What a child does follows from a number alone, and a slow double in plain Python says what must be
there after each.
"""

import copy
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from mixbct.features.bridged import through
from mixbct.gallery import Gallery
from mixbct.gallery.records import Batch
from mixbct.gallery.sqlite import indexes
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap

KILLS = {"sqlite": 50, "postgres": 30}
DIM = 8
UNIVERSE = 60
MODELS = {
    name: Contract(name=name, weights=name, preprocessing=None, dim=DIM) for name in ("old", "new")
}

Row = tuple[str | None, str, np.ndarray]
"""Label, contract's name, vector."""


def edge_from(name: str, number: int) -> Edge:
    """Return an edge from a model to the other one, both sides mapped."""
    source, target = MODELS[name], MODELS["old" if name == "new" else "new"]
    rng = np.random.default_rng([number, len(name)])
    query, gallery = (LinearMap.of(rng.normal(size=(DIM, 5))) for _ in range(2))
    bridge = Bridge(kind="test", source=source, target=target, query=query, gallery=gallery)
    return Edge(
        from_contract=source,
        to_contract=target,
        result_digest="0" * 64,
        threshold=0.5,
        far=1e-3,
        bridge=bridge,
        created="2026-01-01T00:00:00+00:00",
    )


def rows_of(number: int, n: int) -> np.ndarray:
    return np.random.default_rng([number, 1]).standard_normal((n, DIM))


def plan(number: int) -> tuple[str, list[str]]:
    """Return the kind of a step, and the keys that it is about."""
    rng = random.Random(number)
    kinds = ["enrol"] * 4 + ["import"] * 2 + ["remove", "switch", "switch", "rollback", "search"]
    kind = rng.choice(kinds) if number % 97 else "prune"
    return kind, [f"k{i}" for i in rng.sample(range(UNIVERSE), 8)]


def take(gallery: Gallery, number: int) -> None:
    """Take a step."""
    kind, keys = plan(number)
    query = gallery.query_model().contract
    if kind == "enrol":
        gallery.enrol(keys, [None, *keys[1:]], rows_of(number, 8), query, replace=True)
    elif kind == "import":
        rows, labels = rows_of(number, 8), [str(number)] * 8
        halves = (slice(4), slice(4, 8))
        gallery.import_rows(
            [Batch(keys[half], labels[half], rows[half], query) for half in halves], replace=True
        )
    elif kind == "remove":
        held = {hit.key for hit in gallery.search(rows_of(0, 1), query, k=UNIVERSE).of(0)}
        gallery.remove([key for key in keys if key in held])
    elif kind == "switch":
        other = "old" if query.name == "new" else "new"
        edge = edge_from(other, number)
        if number % 2:
            gallery.prepare(MODELS[other], edge)
        gallery.switch(MODELS[other], edge)
    elif kind == "rollback":
        if gallery.status().switches[-1].before is not None:
            gallery.rollback(leave_out=True)
    elif kind == "search":
        gallery.search(rows_of(number, 3), query, k=5)
    else:
        gallery.prune()


def go_on(folder: Path, place: str, number: int) -> None:
    """Take one step after the other, and say before each which it is."""
    indexes._STALE_ROWS = 1  # small indexes have files, too
    said = os.open(folder / "step", os.O_WRONLY | os.O_CREAT)
    with Gallery.open(place) as gallery:
        while True:
            os.pwrite(said, b"%08d" % number, 0)
            take(gallery, number)
            number += 1


class Double:
    """What a gallery must hold: dictionaries, and a whole copy of them for each switch."""

    def __init__(self) -> None:
        self.model = "old"
        self.rows: dict[str, Row] = {}
        self.edges: dict[str, Edge] = {}
        self.way_back: list[tuple[str, dict[str, Row], dict[str, Edge]]] = []

    def _put(self, keys: list[str], labels: list[Any], vectors: np.ndarray) -> None:
        unit = vectors.astype(np.float32)
        unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        for key, label, vector in zip(keys, labels, unit, strict=True):
            self.rows[key] = (label, self.model, vector)

    def take(self, number: int, half: bool = False) -> None:
        """Take a step, or the half of one that is two transactions."""
        kind, keys = plan(number)
        if kind == "enrol":
            self._put(keys, [None, *keys[1:]], rows_of(number, 8))
        elif kind == "import":
            n = 4 if half else 8
            self._put(keys[:n], [str(number)] * n, rows_of(number, 8)[:n])
        elif kind == "remove":
            for key in keys:
                self.rows.pop(key, None)
        elif kind == "switch":
            self.way_back.append((self.model, dict(self.rows), dict(self.edges)))
            self.model = "old" if self.model == "new" else "new"
            self.edges[self.model] = edge_from(self.model, number)
        elif kind == "rollback" and self.way_back:
            self.model, rows, edges = self.way_back.pop()
            self.edges |= edges
            for key in [key for key in self.rows if self.rows[key][1] != self.model]:
                if key in rows:
                    self.rows[key] = rows[key]
                elif self.model not in self.edges:
                    del self.rows[key]
        elif kind == "prune":
            self.way_back = []

    def is_of(self, gallery: Gallery) -> bool:
        """Return whether a gallery holds this, and its searches find it, by brute force."""
        with gallery._store.read() as snapshot:
            blocks = [(s.contract, b) for s in snapshot.contracts() for b in snapshot.blocks(s[0])]
            there = {
                key: (label, contract.name, vector)
                for contract, block in blocks
                for key, label, vector in zip(*block[1:], strict=True)
            }
            assert len(there) == sum(stored.rows for stored in snapshot.contracts())
            edges = {edge.from_contract.name: edge.digest() for edge in snapshot.edges()}
            model, more = snapshot.query_model().contract, snapshot.switches()[-1].before
        if (model.name, edges) != (self.model, {n: e.digest() for n, e in self.edges.items()}):
            return False
        if there.keys() != self.rows.keys() or (more is None) != (not self.way_back):
            return False
        if any(there[key][:2] != row[:2] for key, row in self.rows.items()):
            return False
        if any(abs(there[key][2] - row[2]).max() > 1e-6 for key, row in self.rows.items()):
            return False
        query = rows_of(7, 1).astype(np.float32)
        query /= np.linalg.norm(query)
        scores = {}
        for key, (_, name, vector) in self.rows.items():
            bridge = None if name == self.model else self.edges[self.model].bridge
            sides = (bridge.query, bridge.gallery) if bridge else (None, None)
            scores[key] = float(through(sides[0], query)[0] @ through(sides[1], vector[None])[0])
        hits = gallery.search(query, model, k=UNIVERSE).of(0)
        assert [hit.key for hit in hits] == sorted(scores, key=lambda key: -scores[key])
        assert gallery.faults() == []
        return True


def forgotten(place: str) -> None:
    """Wait until a server has noticed that its client is gone: until then it may yet commit."""
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE application_name = 'mixbct' AND datname = current_database()"
    )
    with psycopg.connect(place, autocommit=True) as connection:
        while connection.execute(query).fetchone() != (0,):
            time.sleep(0.002)


@pytest.mark.parametrize("kind", KILLS)
def test_what_is_there_after_a_kill_was_asked_for(
    kind: str,
    tmp_path: Path,
    nursery: Callable[[str, str], Any],
    request: pytest.FixtureRequest,
) -> None:
    server = kind == "postgres"
    place = request.getfixturevalue("postgres_url") if server else str(tmp_path / "gallery")
    Gallery.create(place, MODELS["old"]).close()
    born = nursery(
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\nfrom test_gallery_kills import go_on",
        f"go_on(Path({str(tmp_path)!r}), {place!r}, int(line))",
    )
    step, double, taken = tmp_path / "step", Double(), 0  # steps that the double has taken
    rng = random.Random(0)
    for _ in range(KILLS[kind]):
        step.write_text(f"{taken + 1:08}")
        child = born.fork(str(taken + 1))
        last = taken + 1 + rng.randrange(6)
        while int(step.read_text()) < last and Path(f"/proc/{child}/stat").exists():
            time.sleep(0.001)
        time.sleep(rng.choice([0, rng.uniform(0, 0.004), rng.uniform(0, 0.02)]))
        os.kill(child, signal.SIGKILL)
        assert born.code() == -signal.SIGKILL
        if server:
            forgotten(place)
        in_flight = int(step.read_text())
        for number in range(taken + 1, in_flight):
            double.take(number)
        taken = in_flight - 1
        with Gallery.open(place) as gallery:
            half = copy.deepcopy(double)
            half.take(in_flight, half=True)
            if not double.is_of(gallery) and not (
                plan(in_flight)[0] == "import" and half.is_of(gallery)
            ):
                double.take(in_flight)
                assert double.is_of(gallery), f"step {in_flight}, {plan(in_flight)}"
                taken = in_flight
    assert taken > 2 * KILLS[kind]
