from pathlib import Path

import numpy as np
import pytest

from mixbct.gallery import Gallery
from mixbct.gallery.postgres.reindex import reindex
from mixbct.gallery.records import QueryModel, Switch
from mixbct.gallery.store import Store
from mixbct.gallery.stores import create_store, open_store
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import Contract, Preprocessing
from mixbct.schemas.record import now

DIM = 8


@pytest.fixture(autouse=True)
def _files_for_few_rows(monkeypatch):
    """Let small galleries have cache files too."""
    monkeypatch.setattr("mixbct.gallery.sqlite.indexes._STALE_ROWS", 1)


@pytest.fixture
def make_contract():
    def make(name, dim=DIM):
        preprocessing = Preprocessing(size=32, channels=1)
        return Contract(name=name, weights=f"w {name}", preprocessing=preprocessing, dim=dim)

    return make


@pytest.fixture
def old(make_contract):
    return make_contract("old")


@pytest.fixture
def new(make_contract):
    return make_contract("new")


@pytest.fixture
def make_edge():
    """Return an edge; with a seed, one with a bridge that maps queries and stored rows."""

    def make(source, target, threshold=0.5, seed=None, dim=6):
        edge = Edge(
            from_contract=source,
            to_contract=target,
            result_digest="0" * 64,
            threshold=threshold,
            far=1e-3,
        )
        if seed is None:
            return edge
        rng = np.random.default_rng(seed)
        sides = [
            LinearMap.of(rng.normal(size=(each.dim, dim)), rng.normal(size=dim) / 4)
            for each in (source, target)
        ]
        bridge = Bridge(kind="test", source=source, target=target, query=sides[0], gallery=sides[1])
        return edge.model_copy(update={"bridge": bridge})

    return make


@pytest.fixture
def vectors():
    """Return n unit vectors of a seed."""

    def make(n, seed=0, dim=DIM):
        rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return make


class SqliteKind:
    """How the conformance suite makes, opens and damages a store of this kind."""

    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self.folder = folder

    def create(self, model: QueryModel) -> Store:
        return create_store(self.folder, model)

    def open(self, timeout: float = 30.0) -> Store:
        return open_store(self.folder, timeout)


class PostgresKind:
    """The same in a database of its own."""

    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self.folder = folder
        self.url = request.getfixturevalue("postgres_url")

    def create(self, model: QueryModel) -> Store:
        return create_store(self.url, model)

    def open(self, timeout: float = 30.0) -> Store:
        return open_store(self.url, timeout)


class MilvusKind(PostgresKind):
    """The same, with the vectors in Milvus too, which compares all of them."""

    def create(self, model: QueryModel) -> Store:
        store = super().create(model)
        reindex(store, f"milvus:{self.folder}/vectors.db?index=FLAT")
        return store


KINDS = {"sqlite": SqliteKind, "postgres": PostgresKind, "milvus": MilvusKind}
"""Every store; the conformance suite runs over each."""


@pytest.fixture(params=KINDS)
def kind(request, tmp_path):
    return KINDS[request.param](tmp_path, request)


@pytest.fixture
def any_store(kind, old):
    """Return an empty store of each kind, searched by `old`."""
    made = kind.create(QueryModel(old, None))
    yield made
    made.close()


@pytest.fixture
def switched():
    """Record a switch to a model, as the gallery does."""

    def switch(transaction, contract, restores=None, before=None):
        last = transaction.switches()[-1].number
        model = QueryModel(contract, None)
        transaction.switch(Switch(last + 1, model, now(), before or last, restores))
        return last + 1

    return switch


@pytest.fixture
def store(tmp_path, old):
    made = create_store(tmp_path, QueryModel(old, None))
    yield made
    made.close()


@pytest.fixture
def gallery(store):
    return Gallery(store)
