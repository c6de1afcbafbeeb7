"""Training against the whitened old bank: the view, every method, and the model's bridge."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_run import CLASSES, DIM, MemorySource, make_bank, make_recipe, weights

from mixbct.adapters.whiten import whitening
from mixbct.backbones.model import load_model
from mixbct.data.bank import FeatureBank
from mixbct.errors import BankError, StoppedError
from mixbct.features.bridged import through
from mixbct.methods import METHODS
from mixbct.recipe import Recipe
from mixbct.training.run import train
from mixbct.training.task import open_task
from mixbct.training.trainer import Trainer

COMPATIBLE = [name for name in METHODS if name != "independent"]


def recipe_of(name: str, bank: Path, *overrides: str, share: float | None = 0.3) -> Recipe:
    more = ", refresh = [1, 2]" if name == "unibct" else ""
    whiten = "" if share is None else f", whiten = {share}"
    return make_recipe(f'method={{name = "{name}", bank = "{bank}"{whiten}{more}}}', *overrides)


@pytest.fixture
def bank(tmp_path: Path) -> FeatureBank:
    found = make_bank(tmp_path / "bank", MemorySource())
    # classes that can be told, so that NCCL finds some of it credible
    spread = 4 * np.random.default_rng(2).normal(size=(5, DIM))[found.labels()]
    return rewritten(found, found.features + spread)


def rewritten(bank: FeatureBank, features: np.ndarray) -> FeatureBank:
    """Give a bank other features, without what would tell that they are others."""
    np.save(bank.path / "features.npy", features.astype(np.float32))
    manifest = bank.manifest.model_copy(update={"digests": None, "norms": None})
    (bank.path / "manifest.json").write_text(manifest.to_json())
    return FeatureBank(bank.path)


def whitened_copy(bank: FeatureBank, out: Path, share: float) -> FeatureBank:
    """Write a bank of what the rows are behind the whitening."""
    shutil.copytree(bank.path, out)
    side = whitening(bank.all(), bank.labels(), share)
    return rewritten(FeatureBank(out), through(side, bank.all()))


@pytest.mark.parametrize("name", COMPATIBLE)
def test_it_is_training_against_a_bank_of_whitened_rows(
    tmp_path: Path, bank: FeatureBank, name: str
) -> None:
    copy = whitened_copy(bank, tmp_path / "copy", 0.3)
    recipes = (
        recipe_of(name, bank.path),
        recipe_of(name, copy.path, share=None),
        recipe_of(name, bank.path, share=None),
    )
    # some steps, before a float32's last bit has grown
    view, other, plain = (losses_of(recipe, 8) for recipe in recipes)
    np.testing.assert_allclose(view, other, rtol=1e-2, atol=1e-4)
    assert not np.allclose(view, plain, rtol=1e-2, atol=1e-4)


def losses_of(recipe: Recipe, steps: int) -> list[float]:
    trainer = Trainer(recipe, MemorySource())
    batches = trainer.batches()
    reports = [trainer.take_step(next(batches)) for _ in range(steps)]
    batches.close()
    return [loss for report in reports for loss in report.losses.values()]


@pytest.mark.parametrize("name", ["mixbct", "nccl"])
def test_the_model_carries_the_map_of_the_gallery(
    tmp_path: Path, bank: FeatureBank, name: str
) -> None:
    train(recipe_of(name, bank.path), MemorySource(), tmp_path / "run")
    model = load_model(tmp_path / "run")
    bridge = model.bridge
    assert bridge is not None
    assert (bridge.kind, bridge.query) == ("trained", None)
    assert (bridge.source, bridge.target) == (model.contract, bank.manifest.contract)
    expected = whitening(bank.all(), bank.labels(), 0.3)
    for found, wanted in zip(bridge.gallery.arrays, expected.arrays, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    train(recipe_of(name, bank.path, share=None), MemorySource(), tmp_path / "plain")
    assert load_model(tmp_path / "plain").bridge is None


def test_a_query_map_and_the_gallery_map_stand_together(tmp_path: Path, bank: FeatureBank) -> None:
    recipe = recipe_of("mixbct", bank.path, "method.query_map=projection", f"model.dim={DIM + 3}")
    train(recipe, MemorySource(), tmp_path / "run")
    bridge = load_model(tmp_path / "run").bridge
    assert (bridge.query.source_dim, bridge.query.target_dim) == (DIM + 3, DIM)
    assert (bridge.gallery.source_dim, bridge.gallery.target_dim) == (DIM, DIM)


@pytest.mark.parametrize("more", [(), ("method.query_map=projection",)])
@pytest.mark.parametrize("share", [0.3, None])
def test_a_gallery_map_that_is_trained_follows_the_whitening(
    tmp_path: Path, bank: FeatureBank, share: float | None, more: tuple[str, ...]
) -> None:
    recipe = recipe_of("mixbct", bank.path, "method.gallery_map=projection", *more, share=share)
    trainer = Trainer(recipe, MemorySource())
    for batch in trainer.batches():
        trainer.take_step(batch)
    rows = bank.all()
    seen = trainer.old.read(np.arange(len(rows)))  # as the method is given them
    after = seen @ trainer.method.gallery_map().numpy()
    after /= np.linalg.norm(after, axis=1, keepdims=True)
    assert np.abs(after - seen).max() > 1e-3
    np.testing.assert_allclose(through(trainer.gallery_map(), rows), after, atol=1e-5)
    train(recipe, MemorySource(), tmp_path / "run")
    bridge = load_model(tmp_path / "run").bridge
    assert (bridge.kind, bridge.query is None) == ("trained", not more)
    assert bridge.gallery == trainer.gallery_map()
    np.testing.assert_allclose(through(bridge.gallery, rows), after, atol=1e-5)


def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path, bank: FeatureBank) -> None:
    train(recipe_of("mixbct", bank.path), MemorySource(), tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(
            recipe_of("mixbct", bank.path, "train.stop_after=9"), MemorySource(), tmp_path / "parts"
        )
    train(recipe_of("mixbct", bank.path), MemorySource(), tmp_path / "parts", resume=True)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert load_model(tmp_path / "parts").bridge == load_model(tmp_path / "whole").bridge


def test_it_is_fitted_on_training_classes_alone(tmp_path: Path) -> None:
    """The bank knows a class that is not trained, and training classes in another order."""
    source = MemorySource()
    known = MemorySource(40, seed=7, classes=("x", *CLASSES[::-1]))
    bank = make_bank(tmp_path / "bank", known)
    _, task, _ = open_task(recipe_of("mixbct", bank.path), source)
    kept = np.flatnonzero(bank.labels() > 0)
    expected = whitening(bank.read(kept), bank.labels()[kept], 0.3)
    np.testing.assert_allclose(task.old.gallery_map.arrays[0], expected.arrays[0], atol=1e-4)
    rows = np.array([3, 0, 17])
    np.testing.assert_allclose(task.old.read(rows), through(expected, bank.read(rows)), atol=1e-5)


def test_the_old_classifier_and_the_prototypes_are_seen_alike(
    tmp_path: Path, bank: FeatureBank
) -> None:
    _, task, _ = open_task(recipe_of("nccl", bank.path), MemorySource())
    _, task_bct, _ = open_task(recipe_of("bct", bank.path), MemorySource())
    side = whitening(bank.all(), bank.labels(), 0.3)
    rows = through(side, bank.all())
    for label in range(len(CLASSES)):
        mean = rows[bank.labels() == label].mean(axis=0)
        expected = mean / np.linalg.norm(mean)
        np.testing.assert_allclose(task_bct.prototypes.values[label], expected, atol=1e-4)
    assert task.old.gallery_map == task_bct.old.gallery_map


def test_rows_that_are_all_alike_are_named(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "bank", MemorySource())
    rewritten(bank, np.tile(bank.features[:1], (52, 1)))
    with pytest.raises(BankError, match=r"method\.whiten: the vectors are all alike"):
        open_task(recipe_of("mixbct", bank.path), MemorySource())
