"""Old rows embedded again: in which order, how many, which not, and what stands afterwards."""

import time
from itertools import groupby

import numpy as np
import pytest
import torch

from mixbct.backbones.linear import LinearBackbone
from mixbct.backbones.model import EmbeddingModel
from mixbct.data.bank import normalise
from mixbct.data.source import Source
from mixbct.errors import BadImageError, ContractError, GalleryError, SwitchedError
from mixbct.features.denoise import credible_rows
from mixbct.features.ordering import highest_first, least_credible, most_items
from mixbct.gallery import Gallery
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge
from mixbct.schemas.model import ModelManifest, VectorInput
from mixbct.workflows import backfill as module
from mixbct.workflows.backfill import backfill

ROWS, DIM, INPUTS = 40, 4, 6
OLD = Contract(name="old", weights="old", preprocessing=None, dim=DIM)
LABELS = [f"c{min(i % 8, 4)}" if i % 10 else None for i in range(ROWS)]
"""c4 has half of the items; some have no label."""


class Images(Source):
    """What the items are seen as; some of them cannot be read."""

    def __init__(self, keys: list[str], bad: set[str] = frozenset()) -> None:
        super().__init__("made up", keys, np.zeros(len(keys), np.int64), ("all",))
        self.bad = bad
        self.vectors = np.random.default_rng(5).standard_normal((ROWS, INPUTS)).astype(np.float32)
        self.read_of: list[str] = []

    def digest(self) -> str:
        return "made up"

    def read(self, rows: np.ndarray) -> np.ndarray:
        keys = [self._keys[row] for row in rows]
        if bad := self.bad.intersection(keys):
            raise BadImageError("cannot be read", sorted(bad))
        self.read_of += keys
        return np.stack([self.vectors[int(key[1:])] for key in keys])


def keys(n: int = ROWS) -> list[str]:
    return [f"k{i}" for i in range(n)]


@pytest.fixture
def model() -> EmbeddingModel:
    torch.manual_seed(0)
    takes = VectorInput(encoder="e", dim=INPUTS, name="e")
    contract = Contract(name="new", weights="new", preprocessing=takes, dim=DIM)
    manifest = ModelManifest(backbone="linear", contract=contract)
    return EmbeddingModel(LinearBackbone(DIM, INPUTS), manifest)


@pytest.fixture
def old_rows() -> np.ndarray:
    return normalise(np.random.default_rng(1).standard_normal((ROWS, DIM)))


@pytest.fixture
def gallery(tmp_path, model, old_rows, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 8)
    monkeypatch.setattr(module, "BETWEEN", 0.0)
    with Gallery.create(tmp_path / "gallery", OLD) as made:
        made.enrol(keys(), LABELS, old_rows, OLD)
        edge = Edge(
            from_contract=model.contract,
            to_contract=OLD,
            result_digest="0" * 64,
            threshold=0.5,
            far=1e-3,
        )
        made.switch(model.contract, edge)
        yield made


def done(gallery: Gallery, contract: Contract) -> list[str]:
    with gallery.read() as snapshot:
        return [key for block in snapshot.blocks(contract) for key in block.keys]


def test_all_of_it_with_what_cannot_be_embedded(gallery, model, old_rows) -> None:
    images = Images([*keys(36), "another"], bad={"k3", "k4"})
    seen = []
    report = backfill(gallery, model, images, progress=lambda *at: seen.append(at))
    assert (report.replaced, report.own_rows, report.rows) == (34, 34, ROWS)
    assert set(report.missing) == {"k36", "k37", "k38", "k39"}
    assert set(report.unreadable) == {"k3", "k4"}
    assert seen[-1][0] == 34
    status = gallery.status()
    assert (status.own_rows, status.rows) == (34, ROWS)
    with gallery.read() as snapshot:
        ids = snapshot.ids(keys())
        items, vectors = snapshot.items(ids.values()), snapshot.vectors(ids.values())
    expected = normalise(model.embed(torch.from_numpy(images.vectors)).numpy())
    for row, key in enumerate(keys()):
        stays = key in {*report.missing, *report.unreadable}
        assert items[ids[key]].label == LABELS[row]
        assert items[ids[key]].contract_id == (OLD if stays else model.contract).id
        wanted = old_rows[row] if stays else expected[row]
        np.testing.assert_allclose(vectors[ids[key]], wanted, atol=1e-6)
    # what is done is not looked at again, and what could not be read is tried
    images.read_of.clear()
    images.bad = {"k4"}
    again = backfill(gallery, model, images)
    assert (again.replaced, again.unreadable, images.read_of) == (1, ("k4",), ["k3"])
    gallery.rollback()
    assert gallery.status().contracts[0].rows == ROWS
    with gallery.read() as snapshot:
        ids = snapshot.ids(keys())
        back = snapshot.vectors(ids.values())
    np.testing.assert_allclose([back[id] for id in ids.values()], old_rows, atol=1e-6)


def test_a_part_of_it_at_a_pace(gallery, model) -> None:
    images = Images(keys(), bad={f"k{i}" for i in range(0, ROWS, 5)})
    # those that cannot be read do not count, so that each run gets on
    assert backfill(gallery, model, images, limit=5).replaced == 5
    assert backfill(gallery, model, images, share=0.25).own_rows == 10
    assert backfill(gallery, model, images, share=0.25).replaced == 0
    assert backfill(gallery, model, images, limit=0).replaced == 0
    began = time.perf_counter()
    assert backfill(gallery, model, Images(keys()), limit=9, rate=20.0).replaced == 9
    assert time.perf_counter() - began > 8 / 20  # a batch of eight, and its time


def test_what_comes_first(gallery, model, old_rows, monkeypatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 1)  # rows of one transaction are stored as they lie
    monkeypatch.setattr(module, "BETWEEN", 0.0)
    numbers = np.array([int(label[1:]) if label else -1 for label in LABELS])
    with pytest.raises(GalleryError, match="--count-hits"):
        backfill(gallery, model, Images(keys()), order="hits")
    gallery.count_hits({"k7": 2, "k30": 1, "gone": 9})
    gallery.count_hits({"k30": 4})
    assert gallery.hits() == {"k7": 2, "k30": 5}
    backfill(gallery, model, Images(keys()), order="hits", limit=2)
    assert done(gallery, model.contract) == ["k30", "k7"]
    gallery.forget_hits()
    assert gallery.hits() == {}

    backfill(gallery, model, Images(keys()), order="items", limit=8)
    assert {LABELS[int(key[1:])] for key in done(gallery, model.contract)[2:]} == {"c4"}

    left = [int(key[1:]) for key in done(gallery, OLD)]
    distance = np.full(ROWS, -1.0)
    for number in range(5):
        rows = [row for row in left if numbers[row] == number]
        if rows:
            centre = old_rows[rows].mean(axis=0)
            distance[rows] = np.linalg.norm(old_rows[rows] - centre, axis=1)
    backfill(gallery, model, Images(keys()), order="credible", limit=7)
    expected = sorted(left, key=lambda row: -distance[row])[:7]
    assert done(gallery, model.contract)[10:] == [f"k{row}" for row in expected]

    first = done(gallery, model.contract)
    backfill(gallery, model, Images(keys()), order="random", limit=5, seed=3)
    one = done(gallery, model.contract)[len(first) :]
    assert one != sorted(one, key=lambda key: int(key[1:]))


def test_orders_by_what_is_known() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 60)
    vectors = rng.standard_normal((60, 5)).astype(np.float32)
    order = highest_first(least_credible(vectors, labels))
    for keep in (0.3, 0.5, 0.9):
        credible = credible_rows(vectors, labels, keep)
        for label in range(6):
            of = [row for row in order if labels[row] == label]
            given_up = len(of) - int(credible[of].sum())
            assert not credible[of[:given_up]].any()
            assert credible[of[given_up:]].all()
    some = np.where(np.arange(60) % 7 == 0, -1, labels)
    assert set(highest_first(least_credible(vectors, some))[-9:]) == set(np.flatnonzero(some < 0))
    assert (least_credible(vectors, np.full(60, -1)) == -1).all()
    by_class = highest_first(most_items(some))
    names, counts = np.unique(some[some >= 0], return_counts=True)
    runs = [label for label, _ in groupby(some[by_class].tolist())]
    assert runs[-1] == -1
    assert sorted(runs[:-1]) == names.tolist()
    sizes = dict(zip(names.tolist(), counts.tolist(), strict=True))
    assert [sizes[label] for label in runs[:-1]] == sorted(counts.tolist(), reverse=True)
    assert most_items(np.empty(0, np.int64)).shape == (0,)


def test_what_others_do_meanwhile_stands(gallery, model) -> None:
    class Meddled(Images):
        """Others enrol, remove and search while a batch is read."""

        def read(self, rows: np.ndarray) -> np.ndarray:
            if not self.read_of:
                gallery.remove(["k1"])
                gallery.enrol(["k2"], ["theirs"], np.ones((1, DIM)), model.contract, replace=True)
                hits = gallery.search(np.ones((1, DIM)), model.contract, k=ROWS)
                assert len(hits.of(0)) == ROWS - 1
            return super().read(rows)

    report = backfill(gallery, model, Meddled(keys()))
    assert (report.replaced, report.own_rows, report.rows) == (38, 39, 39)
    with gallery.read() as snapshot:
        (id,) = snapshot.ids(["k2"]).values()
        assert snapshot.items([id])[id].label == "theirs"
        np.testing.assert_allclose(snapshot.vectors([id])[id], 0.5)


def test_only_the_query_model_embeds(gallery, model) -> None:
    old = model.contract.model_copy(update={"name": "old", "weights": "old"})
    other = EmbeddingModel(model.backbone, model.manifest.model_copy(update={"contract": old}))
    with pytest.raises(ContractError, match=r"old \(.*is not the query model, new"):
        backfill(gallery, other, Images(keys()))

    class Switched(Images):
        def read(self, rows: np.ndarray) -> np.ndarray:
            gallery.rollback()
            return super().read(rows)

    with pytest.raises(SwitchedError, match="query model is old"):
        backfill(gallery, model, Switched(keys()))
    assert done(gallery, model.contract) == []
