import numpy as np
import pytest

from mixbct.gallery import Gallery
from mixbct.gallery.gallery import DATABASE
from mixbct.gallery.records import QueryModel
from mixbct.gallery.sqlite import SqliteStore
from mixbct.schemas.gate import Edge
from mixbct.schemas.model import Contract, Preprocessing

DIM = 8


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
    def make(source, target, threshold=0.5):
        return Edge(
            from_contract=source,
            to_contract=target,
            result_digest="0" * 64,
            threshold=threshold,
            far=1e-3,
        )

    return make


@pytest.fixture
def vectors():
    """Return n unit vectors of a seed."""

    def make(n, seed=0):
        rows = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return make


@pytest.fixture
def store(tmp_path, old):
    made = SqliteStore.create(tmp_path / DATABASE, QueryModel(old, None))
    yield made
    made.close()


@pytest.fixture
def gallery(store, tmp_path):
    return Gallery(store, tmp_path)
