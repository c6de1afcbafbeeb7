"""Runs between dimensions: through the whole loop, resumed, and into the model folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import DIM, MemorySource, make_bank, make_recipe, weights

from mixbct.backbones.model import load_model, read_manifest
from mixbct.data.bank import FeatureBank
from mixbct.errors import BankError, ModelError, RecipeError, StoppedError
from mixbct.methods import METHODS
from mixbct.recipe import Recipe
from mixbct.schemas.bridge import Bridge
from mixbct.training.run import train
from mixbct.training.trainer import Trainer

COMPATIBLE = [name for name in METHODS if name != "independent"]
DIMS = (DIM + 3, DIM - 1)


def recipe_of(name: str, bank: Path, dim: int, *overrides: str, kind: str = "projection") -> Recipe:
    more = ", refresh = [1, 2]" if name == "unibct" else ""
    method = f'method={{name = "{name}", bank = "{bank}", query_map = "{kind}"{more}}}'
    return make_recipe(method, f"model.dim={dim}", *overrides)


@pytest.fixture
def bank(tmp_path: Path) -> FeatureBank:
    return make_bank(tmp_path / "bank", MemorySource())


RUNS = [(name, DIMS[0]) for name in COMPATIBLE] + [("mixbct", DIMS[1]), ("unibct", DIMS[1])]


@pytest.mark.parametrize(("name", "dim"), RUNS)
def test_a_run_stopped_in_an_epoch_ends_with_the_same_bits(
    tmp_path: Path, bank: FeatureBank, name: str, dim: int
) -> None:
    train(recipe_of(name, bank.path, dim), MemorySource(), tmp_path / "whole")
    stopped = recipe_of(name, bank.path, dim, "train.stop_after=9")
    with pytest.raises(StoppedError):
        train(stopped, MemorySource(), tmp_path / "parts")
    train(recipe_of(name, bank.path, dim), MemorySource(), tmp_path / "parts", resume=True)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    maps = [read_manifest(tmp_path / run)[1].bridge for run in ("parts", "whole")]
    assert maps[0] == maps[1]
    assert maps[0] is not None


@pytest.mark.parametrize("dim", DIMS)
def test_the_model_knows_its_map_and_where_it_leads(
    tmp_path: Path, bank: FeatureBank, dim: int
) -> None:
    source = MemorySource()
    trainer = Trainer(recipe_of("mixbct", bank.path, dim), source)
    first = trainer.method.query_map()
    for batch in trainer.batches():
        trainer.take_step(batch)
    last = trainer.method.query_map()
    assert first is not None
    assert last is not None
    assert not torch.allclose(first, last)
    train(recipe_of("mixbct", bank.path, dim), source, tmp_path / "run")
    model = load_model(tmp_path / "run")
    assert model.contract.dim == dim
    assert model.bridge is not None
    assert model.bridge.kind == "trained"
    assert model.bridge.source == model.contract
    assert model.bridge.target == bank.manifest.contract
    assert model.bridge.gallery is None
    assert model.bridge.query is not None
    np.testing.assert_array_equal(model.bridge.query.arrays[0], last.numpy())


def test_a_prefix_goes_into_the_model_as_a_map(tmp_path: Path, bank: FeatureBank) -> None:
    recipe = recipe_of("mixbct", bank.path, 7, kind="prefix")
    train(recipe, MemorySource(), tmp_path / "run")
    bridge = load_model(tmp_path / "run").bridge
    assert bridge is not None
    assert bridge.query is not None
    np.testing.assert_array_equal(bridge.query.arrays[0], np.eye(7, 4))
    with pytest.raises(RecipeError, match=r"set method\.query_map = 'projection'"):
        Trainer(recipe_of("mixbct", bank.path, 3, kind="prefix"), MemorySource())


def test_a_model_without_a_map_is_as_it_was(tmp_path: Path, bank: FeatureBank) -> None:
    train(make_recipe(bank=bank.path), MemorySource(), tmp_path / "run")
    assert load_model(tmp_path / "run").bridge is None
    # so that a version without bridges can read it
    assert "bridge" not in (tmp_path / "run/model/model.json").read_text()


def test_a_query_map_of_an_earlier_version_is_read_as_a_bridge(
    tmp_path: Path, bank: FeatureBank
) -> None:
    train(recipe_of("mixbct", bank.path, 7), MemorySource(), tmp_path / "run")
    path = tmp_path / "run/model/model.json"
    content = json.loads(path.read_text())
    now = content.pop("bridge")
    content["query_map"] = {"to": now["target"], "map": now["query"]}
    path.write_text(json.dumps(content, indent=1))
    assert load_model(tmp_path / "run").bridge == Bridge.model_validate(now)


def test_a_damaged_map_is_named(tmp_path: Path, bank: FeatureBank) -> None:
    train(recipe_of("mixbct", bank.path, 7), MemorySource(), tmp_path / "run")
    path = tmp_path / "run/model/model.json"
    digest = read_manifest(tmp_path / "run")[1].bridge.query.digest  # type: ignore[union-attr]
    path.write_text(path.read_text().replace(digest, "0" * 64))
    with pytest.raises(ModelError, match=r"bridge\.query: .*damaged"):
        load_model(tmp_path / "run")


def test_without_a_map_another_dimension_is_refused(bank: FeatureBank) -> None:
    for dim, kind in ((7, "prefix"), (3, "projection")):
        with pytest.raises(BankError, match=rf"model\.dim = 4, or method\.query_map = '{kind}'"):
            Trainer(make_recipe(f"model.dim={dim}", bank=bank.path), MemorySource())


def test_the_backbone_and_head_start_as_without_an_old_model(bank: FeatureBank) -> None:
    alone = Trainer(make_recipe("model.dim=7"), MemorySource())
    beside = Trainer(recipe_of("advbct", bank.path, 7), MemorySource())
    for part in ("backbone", "head"):
        for key, value in getattr(alone, part).state_dict().items():
            assert torch.equal(value, getattr(beside, part).state_dict()[key])
