"""Every method through the whole loop: resumed, refused, and from an old model on disk."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_run import CLASSES, MemorySource, make_bank, make_recipe, weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mixbct.backbones.model import load_model
from mixbct.errors import BankError, CheckpointError, ModelError, StoppedError
from mixbct.features.extract import extract
from mixbct.methods import METHODS
from mixbct.recipe import Recipe
from mixbct.training.run import train
from mixbct.training.task import open_old_classifier
from mixbct.training.trainer import Trainer

COMPATIBLE = [name for name in METHODS if name != "independent"]
MORE = {"unibct": ", refresh = [1, 2]"}


def recipe_method(name: str, bank: Path) -> str:
    return f'method = {{name = "{name}", bank = "{bank}"{MORE.get(name, "")}}}'


def recipe_of(name: str, bank: Path, *overrides: str) -> Recipe:
    return make_recipe(recipe_method(name, bank), *overrides)


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    return make_bank(tmp_path / "bank", MemorySource()).path


@pytest.mark.parametrize("name", COMPATIBLE)
def test_a_run_stopped_at_and_between_epochs_ends_with_the_same_bits(
    tmp_path: Path, bank: Path, name: str
) -> None:
    """After 6 steps, when an epoch is over but the next has not begun, and after 9, in one."""
    train(recipe_of(name, bank), MemorySource(), tmp_path / "whole")
    for stop in (6, 9):
        recipe = recipe_of(name, bank, f"train.stop_after={stop}")
        with pytest.raises(StoppedError):
            train(recipe, MemorySource(), tmp_path / "parts", resume=True)
    cost = train(recipe_of(name, bank), MemorySource(), tmp_path / "parts", resume=True)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    # unibct looks at the 52 images again before two of its epochs
    assert cost.images == 18 * 8 + (104 if name == "unibct" else 0)


@pytest.mark.parametrize("name", COMPATIBLE)
def test_every_method_starts_from_the_same_weights(bank: Path, name: str) -> None:
    alone = Trainer(make_recipe(), MemorySource())
    beside = Trainer(recipe_of(name, bank), MemorySource())
    for part in ("backbone", "head"):
        for key, value in getattr(alone, part).state_dict().items():
            assert torch.equal(value, getattr(beside, part).state_dict()[key])


@pytest.mark.parametrize("name", COMPATIBLE)
def test_another_dimension_is_refused(bank: Path, name: str) -> None:
    with pytest.raises(BankError, match=r"4-d features of old .*to have 8: set model.dim = 4"):
        Trainer(recipe_of(name, bank, "model.dim=8"), MemorySource())


@pytest.mark.parametrize("name", COMPATIBLE)
def test_denoising_and_pairs_are_asked_for_where_they_are_needed(tmp_path: Path, name: str) -> None:
    make_bank(tmp_path / "raw", MemorySource(), denoised=False)
    make_bank(tmp_path / "other", MemorySource(seed=1))
    needs = METHODS[name].needs
    for need, path, says in (
        ("credible", tmp_path / "raw", "not denoised: run `mixbct denoise"),
        ("paired_old", tmp_path / "other", "not extracted from these training images"),
    ):
        if need in needs:
            with pytest.raises(BankError, match=says):
                Trainer(recipe_of(name, path), MemorySource())
        else:
            Trainer(recipe_of(name, path), MemorySource())


def make_old(tmp_path: Path) -> tuple[Path, Path]:
    """Train an old model on classes a to e, and extract its bank."""
    train(make_recipe('head={name = "softmax"}'), MemorySource(), tmp_path / "old")
    extract(load_model(tmp_path / "old"), MemorySource(), tmp_path / "old bank")
    return tmp_path / "old", tmp_path / "old bank"


def test_old_weights_are_tied_to_the_training_classes_by_name(tmp_path: Path) -> None:
    old, path = make_old(tmp_path)
    source = MemorySource(classes=("e", "x", "b"))
    recipe = make_recipe(f'method={{name = "bct", bank = "{path}", old_model = "{old}"}}')
    trainer = Trainer(recipe, source)
    trained = F.normalize(load_file(old / "model/head.safetensors")["weight"])
    directions = trainer.method.influence.directions
    torch.testing.assert_close(directions[0], trained[CLASSES.index("e")])
    torch.testing.assert_close(directions[2], trained[CLASSES.index("b")])
    assert trainer.method.influence.known.tolist() == [True, False, True]
    means = Trainer(make_recipe(f'method={{name = "bct", bank = "{path}"}}'), source)
    assert not torch.allclose(means.method.influence.directions[0], directions[0])


def test_an_old_model_that_does_not_fit(tmp_path: Path, bank: Path) -> None:
    old, path = make_old(tmp_path)
    own = Trainer(make_recipe(f'method={{name = "bct", bank = "{path}"}}'), MemorySource()).bank
    assert own is not None
    other = Trainer(recipe_of("bct", bank), MemorySource()).bank
    assert other is not None
    with pytest.raises(BankError, match=r"method.old_model is tiny .* came from old .*: name the"):
        open_old_classifier(old, other, MemorySource())
    (old / "model/head.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match=r"head\.safetensors is not a readable classifier"):
        open_old_classifier(old, own, MemorySource())


def test_resuming_with_another_old_classifier_is_refused(tmp_path: Path) -> None:
    old, path = make_old(tmp_path)
    method = f'method={{name = "bct", bank = "{path}", old_model = "{old}"}}'
    with pytest.raises(StoppedError):
        train(make_recipe(method, "train.stop_after=4"), MemorySource(), tmp_path / "run")
    head = load_file(old / "model/head.safetensors")
    save_file({k: v + 1 for k, v in head.items()}, old / "model/head.safetensors")
    with pytest.raises(CheckpointError, match="another data or old bank"):
        train(make_recipe(method), MemorySource(), tmp_path / "run", resume=True)


def test_extraction_sees_every_image_in_order_and_changes_nothing(bank: Path) -> None:
    trainer = Trainer(recipe_of("unibct", bank), MemorySource())
    trainer.take_step(next(trainer.batches()))
    before = {k: v.clone() for k, v in trainer.backbone.state_dict().items()}
    features = trainer._extract(np.arange(52))
    torch.testing.assert_close(dict(trainer.backbone.state_dict()), before)
    alone = [trainer.embed(trainer.source.read(np.array([row]))) for row in range(52)]
    torch.testing.assert_close(features, torch.cat(alone), rtol=1e-4, atol=1e-5)


class Types(TorchDispatchMode):
    """Notes every operation that gives a number of another type than float64."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.others: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.operations += 1
                if tensor.dtype != torch.float64:
                    self.others.add(f"{func} gives {tensor.dtype}")
        return out


@pytest.mark.parametrize("name", METHODS)
def test_a_step_in_float64_has_no_number_of_another_type(bank: Path, name: str) -> None:
    method = () if name == "independent" else (recipe_method(name, bank),)
    trainer = Trainer(make_recipe(*method, "train.precision='float64'"), MemorySource())
    types = Types()
    for batch in trainer.batches():
        # stored rows, which are float32, are read before a step or an epoch
        with nullcontext() if trainer.step % trainer.steps_per_epoch == 0 else types:
            trainer.take_step(batch)
    assert types.operations > 1000
    assert not types.others


@pytest.mark.parametrize("name", METHODS)
def test_float64_keeps_a_rounding_error_small(bank: Path, name: str) -> None:
    """First weights moved by 1e-13 end less than 1e-10 apart."""
    ends = []
    for shift in (0.0, 1e-13):
        method = () if name == "independent" else (recipe_method(name, bank),)
        trainer = Trainer(make_recipe(*method, "train.precision='float64'"), MemorySource())
        with torch.no_grad():
            for parameter in trainer.backbone.parameters():
                parameter.mul_(1 + shift)
        for batch in trainer.batches():
            trainer.take_step(batch)
        ends.append(torch.cat([p.detach().flatten() for p in trainer.backbone.parameters()]))
    assert 0 < float((ends[0] - ends[1]).norm() / ends[0].norm()) < 1e-10


def test_a_model_computes_in_the_precision_that_it_was_trained_in(
    tmp_path: Path, bank: Path
) -> None:
    train(recipe_of("mixbct", bank, "train.precision='float64'"), MemorySource(), tmp_path / "run")
    model = load_model(tmp_path / "run")
    assert model.dtype == torch.float64
    images = torch.from_numpy(MemorySource().images[:8])
    exact = model.backbone(images.permute(0, 3, 1, 2).double().sub(127.5).div(127.5)).detach()
    assert torch.equal(model.embed(images), exact.float())
    with torch.no_grad():
        rough = model.backbone.float()(images.permute(0, 3, 1, 2).float().sub(127.5).div(127.5))
    assert not torch.equal(rough, exact.float())
