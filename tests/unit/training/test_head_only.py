"""Heads over stored vectors: the same loop, started at a map that an adapter fits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import MemorySource, make_recipe, weights
from vector_run import (
    CLASSES,
    NEW,
    OLD,
    ROWS,
    head_recipe,
    make_banks,
    source_of,
    vectors,
    write_bank,
)

from mixbct.adapters import ADAPTERS
from mixbct.backbones.model import load_model
from mixbct.data.bank import FeatureBank, normalise
from mixbct.data.source import Selection
from mixbct.errors import BankError, CheckpointError, ModelError, RecipeError, StoppedError
from mixbct.features.bridged import through
from mixbct.features.extract import extract
from mixbct.methods import METHODS
from mixbct.recipe import Recipe
from mixbct.schemas.record import read_record
from mixbct.training.run import train
from mixbct.training.start import HeadStart, HeldOut, hold_out, paired_means, paired_rows
from mixbct.training.trainer import Trainer


@pytest.fixture
def banks(tmp_path: Path) -> Path:
    make_banks(tmp_path)
    return tmp_path


@pytest.mark.parametrize("backbone", ["linear", "residual"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_a_head_and_resumes_within_an_epoch(
    banks: Path, name: str, backbone: str
) -> None:
    setting = f"model.backbone={backbone}"
    source = source_of(banks / "new")
    train(head_recipe(banks, setting, method=name), source, banks / "whole")
    for stop in (5, 8):
        recipe = head_recipe(banks, setting, f"train.stop_after={stop}", method=name)
        with pytest.raises(StoppedError):
            train(recipe, source, banks / "parts", resume=True)
    train(head_recipe(banks, setting, method=name), source, banks / "parts", resume=True)
    assert weights(banks / "parts") == weights(banks / "whole")
    model = load_model(banks / "whole")
    assert model.contract.dim == OLD
    assert model.takes == FeatureBank(banks / "new").manifest.contract.as_input()


@pytest.mark.parametrize("name", METHODS)
def test_float16_banks_and_sampled_classes(tmp_path: Path, name: str) -> None:
    make_banks(tmp_path, dtype="float16")
    recipe = head_recipe(tmp_path, "head.sample=0.5", method=name)
    cost = train(recipe, source_of(tmp_path / "new"), tmp_path / "run")
    assert cost.steps == 2 * (ROWS // 8)


@pytest.mark.parametrize(("new", "old"), [(6, 4), (4, 6), (5, 5)])
@pytest.mark.parametrize("backbone", ["linear", "residual"])
@pytest.mark.parametrize("start", ["procrustes", "ridge"])
def test_a_head_begins_as_the_adapter(
    tmp_path: Path, new: int, old: int, backbone: str, start: str
) -> None:
    make_banks(tmp_path, new, old)
    # the old vectors in a narrow cone, so that an offset matters
    write_bank(tmp_path / "cone", vectors(old, seed=2) + 3, "old", digest="these images")
    settings = (f"model.backbone={backbone}", f"model.start={start}")
    recipe = head_recipe(tmp_path, *settings, f"method.bank={tmp_path / 'cone'}", dim=old)
    trainer = Trainer(recipe, source_of(tmp_path / "new"))
    trainer.begin()
    assert trainer.old is not None
    assert trainer.old.paired
    both = [FeatureBank(tmp_path / side).all() for side in ("new", "cone")]
    expected = through(ADAPTERS[start](*both)[0], both[0])
    begun = normalise(trainer.embed(trainer.source.read(np.arange(ROWS))).numpy())
    np.testing.assert_allclose(begun, expected, atol=1e-5)
    assert trainer.backbone.state_dict()["map.bias"].any() == (start == "ridge")


@pytest.mark.parametrize("backbone", ["linear", "residual"])
def test_a_head_that_began_at_ridge_resumes_to_the_bit(banks: Path, backbone: str) -> None:
    settings = (f"model.backbone={backbone}", "model.start=ridge")
    source = source_of(banks / "new")
    train(head_recipe(banks, *settings), source, banks / "whole")
    with pytest.raises(StoppedError):
        train(head_recipe(banks, *settings, "train.stop_after=5"), source, banks / "parts")
    train(head_recipe(banks, *settings), source, banks / "parts", resume=True)
    assert weights(banks / "parts") == weights(banks / "whole")
    trained = load_model(banks / "whole").backbone.state_dict()["map.bias"]
    begun = Trainer(head_recipe(banks, *settings), source)
    begun.begin()
    assert not torch.equal(trained, begun.backbone.state_dict()["map.bias"])


def test_random_and_independent_heads_begin_elsewhere(banks: Path) -> None:
    source = source_of(banks / "new")
    began: list[torch.Tensor] = []
    for recipe in (
        head_recipe(banks),
        head_recipe(banks, "model.start=random"),
        head_recipe(banks, method="independent"),
    ):
        trainer = Trainer(recipe, source)
        trainer.begin()
        began.append(trainer.backbone.state_dict()["map.weight"])
    assert not torch.allclose(began[0], began[1])
    assert torch.equal(began[1], began[2])


def many_classes(folder: Path, mean: float, classes: int = 120) -> Selection:
    """Write banks of several items a class, the old vectors around a mean, and open the new one."""
    rng = np.random.default_rng(4)
    names = tuple(f"c{i}" for i in range(classes))
    who = rng.normal(size=(classes, 12))[np.arange(6 * classes) % classes]
    for side, dim, noise, centre in (("new", 10, 0.1, 0.0), ("old", 8, 0.3, mean)):
        seen = who @ rng.normal(size=(12, dim)) / 3 + noise * rng.normal(size=(len(who), dim))
        features = (seen + centre).astype(np.float32)
        write_bank(folder / side, features, side, classes=names)
    return source_of(folder / "new")


def auto_recipe(folder: Path, *overrides: str) -> Recipe:
    return head_recipe(folder, "model.start=auto", "train.batch=32", *overrides, dim=8)


@pytest.mark.parametrize(("mean", "start"), [(0.0, "procrustes"), (5.0, "ridge")])
def test_a_head_chooses_its_start_by_the_mean_of_the_old_vectors(
    tmp_path: Path, mean: float, start: str
) -> None:
    source = many_classes(tmp_path, mean)
    trainer = Trainer(auto_recipe(tmp_path), source)
    chosen = trainer.begin()
    assert chosen is not None
    length = float(np.linalg.norm(FeatureBank(tmp_path / "old").all().mean(0)))
    assert chosen.start == start
    assert chosen.mean_length == pytest.approx(length, abs=1e-6)
    assert chosen.rate == pytest.approx((1 - length**2) ** 2, rel=1e-4)
    trainer.take_step(next(trainer.batches()))
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * chosen.rate)
    said = Trainer(auto_recipe(tmp_path, f"model.start={start}"), source)
    assert said.begin() is None
    assert said.rate == 0.1


@pytest.mark.parametrize("start", ["start", "trained"])
def test_the_better_of_start_and_end_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    mapped = "method.gallery_map=projection"
    source, recipe = many_classes(tmp_path, 0.0), auto_recipe(tmp_path, "optimizer.lr=0.3", mapped)
    embeds: list[int] = []
    maps: list[np.ndarray] = []
    kept = HeldOut.judge

    def judge(self: HeldOut, embed: Any, side: Any = None) -> tuple[float, float]:
        found = kept(self, embed, side)
        maps.append(side.arrays[0])
        assert all(0 < figure <= 1 for figure in found)
        assert not set(self.rows.keys()) & set(self.rest.keys())
        assert not set(self.rows.classes()) & set(self.rest.classes())
        embeds.append(1)
        return (0.5, 0.5) if len(embeds) == 1 else (0.6, 0.1 if start == "start" else 0.5)

    monkeypatch.setattr(HeldOut, "judge", judge)
    train(recipe, source, tmp_path / "run")
    record = read_record(tmp_path / "run/start.json", HeadStart, ModelError, "head start")
    assert (record.held_out, record.kept) == (12, start == "start")
    assert f"so the {start} " in str(record).replace("trained head", "trained ")
    model = load_model(tmp_path / "run")
    assert len(model.manifest.classes) == 108
    assert model.manifest.data_digest == source.digest()
    begun = Trainer(recipe, rest_of(recipe, source))
    begun.begin()
    same = torch.equal(model.backbone.state_dict()["map.weight"], begun.backbone.map.weight)
    assert same == (start == "start")
    unmoved = np.array_equal(model.bridge.gallery.arrays[0], np.eye(model.bridge.target.dim))
    assert unmoved == same
    deployed = maps[0] if same else maps[1]
    np.testing.assert_array_equal(model.bridge.gallery.arrays[0], deployed)
    assert np.abs(maps[1] - maps[0]).max() > 1e-4
    assert (tmp_path / "run/model/head.safetensors").exists() != same


def rest_of(recipe: Recipe, source: Selection) -> Selection:
    found = hold_out(recipe, source)
    assert found is not None
    return found.rest


def test_a_head_that_chose_resumes_to_the_bit(tmp_path: Path) -> None:
    source = many_classes(tmp_path, 5.0)
    train(auto_recipe(tmp_path), source, tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(auto_recipe(tmp_path, "train.stop_after=5"), source, tmp_path / "parts")
    train(auto_recipe(tmp_path), source, tmp_path / "parts", resume=True)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    read = [(tmp_path / run / "start.json").read_bytes() for run in ("whole", "parts")]
    assert read[0] == read[1]


@pytest.mark.parametrize("more", [(), ("method.whiten=0.3",)])
def test_the_start_is_judged_as_anyone_would(tmp_path: Path, more: tuple[str, ...]) -> None:
    source, recipe = many_classes(tmp_path, 5.0), auto_recipe(tmp_path, *more)
    held = hold_out(recipe, source)
    assert held is not None
    trainer = Trainer(recipe, held.rest)
    start = trainer.begin().start
    new, old = (FeatureBank(tmp_path / side).all() for side in ("new", "old"))
    rest, rows = held.rest.rows, held.rows.rows
    side = trainer.old.gallery_map
    assert (side is not None) == bool(more)
    old = through(side, old)
    mapped = through(ADAPTERS[start](new[rest], old[rest])[0], new)
    labels = source.labels()
    precision = []
    order = rows[np.argsort(labels[rows], kind="stable")]
    for query in order[::2]:
        items = order[1::2]
        hits = labels[items[np.argsort(-(old[items] @ mapped[query]))]] == labels[query]
        precision.append(np.mean(np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)))
    assert held.judge(trainer.embed, side)[0] == pytest.approx(np.mean(precision), abs=1e-6)


def test_strangers_and_few_classes(tmp_path: Path, banks: Path) -> None:
    assert hold_out(head_recipe(banks), source_of(banks / "new")) is None  # eight classes
    assert hold_out(make_recipe(), MemorySource()) is None  # images
    (tmp_path / "many").mkdir()
    source = many_classes(tmp_path / "many", 0.0)
    recipe = auto_recipe(tmp_path / "many")
    assert hold_out(auto_recipe(tmp_path / "many", "method.query_map=prefix"), source) is None
    # an old bank of other items of the same classes, and one that knows none of those set aside
    old = FeatureBank(tmp_path / "many/old")
    write_bank(
        tmp_path / "others", old.all()[::-1].copy(), "old", digest="others", classes=old.classes()
    )
    others = hold_out(auto_recipe(tmp_path / "many", f"method.bank={tmp_path / 'others'}"), source)
    assert others is not None
    assert len(others._queries) == 72
    assert len(others._items) == 72
    write_bank(tmp_path / "few", old.all()[:60], "old", digest="few", classes=("c1", "c2", "c3"))
    assert (
        hold_out(auto_recipe(tmp_path / "many", f"method.bank={tmp_path / 'few'}"), source) is None
    )
    train(recipe, source, tmp_path / "run")
    assert "began at procrustes" in str(
        read_record(tmp_path / "run/start.json", HeadStart, ModelError, "head start")
    )


def test_without_pairs_the_means_of_shared_classes_are_the_start(banks: Path) -> None:
    """Strangers to the training rows, some of them of training classes, in another order."""
    several = ("c7", "x", "c1", "c2", "c3", "c5")
    features = vectors(OLD, rows=30, seed=9)
    write_bank(banks / "strangers", features, "old", digest="others", classes=several)
    recipe = head_recipe(banks, f"method.bank={banks / 'strangers'}")
    trainer = Trainer(recipe, source_of(banks / "new"))
    assert trainer.old is not None
    assert not trainer.old.paired
    new_side, old_side = paired_means(trainer.source, trainer.old)
    assert new_side.shape == (5, NEW)
    rows = normalise(vectors(NEW, seed=1))
    for place, label in enumerate((1, 2, 3, 5, 7)):
        mean = rows[np.arange(ROWS) % CLASSES == label].mean(0)
        np.testing.assert_allclose(new_side[place], mean / np.linalg.norm(mean), atol=1e-6)
        own = normalise(features)[np.arange(30) % 6 == several.index(f"c{label}")].mean(0)
        np.testing.assert_allclose(old_side[place], own / np.linalg.norm(own), atol=1e-6)
    for start in ("procrustes", "ridge"):
        recipe = head_recipe(banks, f"method.bank={banks / 'strangers'}", f"model.start={start}")
        trainer = Trainer(recipe, source_of(banks / "new"))
        trainer.begin()
        fitted, _ = ADAPTERS[start](new_side, old_side)
        begun = normalise(trainer.embed(trainer.source.read(np.arange(ROWS))).numpy())
        np.testing.assert_allclose(begun, through(fitted, rows), atol=1e-5)


def test_too_few_classes_for_a_start_are_named(banks: Path) -> None:
    write_bank(banks / "two", vectors(OLD, rows=6), "old", digest="o", classes=("c1", "c2"))
    for start, says in (("procrustes", "2 rows do not"), ("ridge", "")):
        recipe = head_recipe(banks, f"method.bank={banks / 'two'}", f"model.start={start}")
        trainer = Trainer(recipe, source_of(banks / "new"))
        expected = rf"'{start}' is fitted on classes that both.*{says}.*'random'"
        with pytest.raises(RecipeError, match=expected):
            trainer.begin()


def test_a_start_on_many_rows_takes_some_of_them(
    banks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixbct.training.start.MOST_ROWS", 10)
    trainer = Trainer(head_recipe(banks), source_of(banks / "new"))
    assert trainer.old is not None
    new_side, old_side = paired_rows(trainer.source, trainer.old)
    rows = np.linspace(0, ROWS - 1, 10).astype(int)
    np.testing.assert_array_equal(new_side, FeatureBank(banks / "new").all()[rows])
    np.testing.assert_array_equal(old_side, FeatureBank(banks / "old").all()[rows])


def test_a_part_of_the_new_bank_is_paired_with_the_whole_old_one(banks: Path) -> None:
    rows = np.array([3, 5, 8, 9, 12, 17, 20, 22, 31, 40])
    part = Selection(source_of(banks / "new").source, rows)
    trainer = Trainer(head_recipe(banks, method="l2"), part)
    batch = next(trainer.batches())
    plan = trainer.method.plan(3, 0, 0)
    np.testing.assert_array_equal(plan.forward_rows, plan.old_rows)
    old = FeatureBank(banks / "old")
    np.testing.assert_array_equal(batch.old.values.numpy(), old.read(rows[plan.old_rows]))
    new = FeatureBank(banks / "new")
    np.testing.assert_array_equal(batch.items.numpy(), new.read(rows[plan.forward_rows]))
    mixed = Trainer(head_recipe(banks), part)
    assert mixed.old is not None
    np.testing.assert_array_equal(mixed.old.credible, rows % 5 != 0)
    np.testing.assert_array_equal(mixed.old.labels, part.labels())


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.shift=2", r"data\.shift means nothing for .*feature bank .*vectors: leave it out"),
        ("data.flip=true", r"data\.flip means nothing"),
        ("model.size=64", r"model\.size means nothing"),
        ("model.channels=1", r"model\.channels means nothing"),
    ],
)
def test_settings_of_images_are_refused(banks: Path, override: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        Trainer(head_recipe(banks, override), source_of(banks / "new"))


def test_backbones_and_data_of_another_kind_are_refused(banks: Path) -> None:
    with pytest.raises(ModelError, match=r"no backbone 'small' over 6-d vectors.*linear, residual"):
        Trainer(head_recipe(banks, "model.backbone=small"), source_of(banks / "new"))
    with pytest.raises(ModelError, match=r"no backbone 'linear' over images.*small, iresnet18"):
        Trainer(make_recipe("model.backbone=linear", "model.options={}"), MemorySource())
    with pytest.raises(BankError, match=r"4-d features of old .*to have 9: set model.dim = 4"):
        Trainer(head_recipe(banks, dim=9), source_of(banks / "new"))


def test_vectors_of_another_encoder_do_not_go_on_with_a_run(banks: Path) -> None:
    write_bank(banks / "other", vectors(NEW, seed=5), "another encoder")
    recipe = head_recipe(banks, "train.stop_after=4")
    with pytest.raises(StoppedError):
        train(recipe, source_of(banks / "new"), banks / "run")
    with pytest.raises(CheckpointError, match="another data or old bank"):
        train(head_recipe(banks), source_of(banks / "other"), banks / "run", resume=True)
    train(head_recipe(banks), source_of(banks / "new"), banks / "run", resume=True)
    with pytest.raises(CheckpointError, match="was trained on other data"):
        train(head_recipe(banks), source_of(banks / "other"), banks / "run", resume=True)


def test_a_head_embeds_banks_of_its_encoder_alone(banks: Path) -> None:
    train(head_recipe(banks), source_of(banks / "new"), banks / "run")
    head = load_model(banks / "run")
    bank = extract(head, source_of(banks / "new"), banks / "of head", dtype="float32")
    assert bank.manifest.contract == head.contract
    assert bank.manifest.data_digest == "these images"
    matrix = head.backbone.state_dict()["map.weight"].numpy()
    offset = head.backbone.state_dict()["map.bias"].numpy()
    expected = normalise(vectors(NEW, seed=1)) @ matrix.T + offset
    np.testing.assert_allclose(bank.features, expected, rtol=1e-5, atol=1e-6)
    # of vectors that were not normalised, too
    scaled = head.embed(torch.from_numpy(7 * vectors(NEW, seed=1)))
    np.testing.assert_allclose(scaled.numpy(), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match=r"is a head over 6-d vectors of encoder \(.*not a model"):
        _ = head.preprocessing
