"""A training step: MixBCT's beside plain ArcFace's, and beside the least that it must do.

The steps are those of the real loop, reading ahead included: the next batch from
`Trainer.batches`, then `Trainer.take_step`, with the demo's recipe.
"""

import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.data import CLASSES, DIM, clustered_vectors, demo_model, image_source
from benchmarks.measure import Figure, in_turn, time_figure
from mixbct.backbones.model import build_backbone
from mixbct.data.array import ArraySource
from mixbct.data.bank_writer import BankWriter
from mixbct.features.denoise import denoise
from mixbct.recipe import Recipe, SGDSettings, apply_overrides, parse_recipe
from mixbct.schemas.data import BankManifest
from mixbct.training.trainer import Trainer
from mixbct.workflows.demo import SETTINGS
from mixbct.workflows.recipes import recipe_text

IMAGES = 30 * CLASSES


def run(folder: Path) -> list[Figure]:
    """Return mix_step/skip, mix_step/skip_floor, mix_step/bank and mix_step/whitened."""
    source = image_source(folder / "images", IMAGES)
    _make_bank(folder / "bank", source)
    bank = str(folder / "bank")
    plain = {"name": "independent"}
    skip = {"name": "mixbct", "bank": bank, "draw": "skip", "ratio": 0.3}
    mixed = {"name": "mixbct", "bank": bank, "draw": "bank", "ratio": 0.5}
    # each pair has trainers of its own, so that no run comes to its end
    comparisons = {
        "mix_step/skip": (_step(skip, source), _step(plain, source)),
        "mix_step/skip_floor": (_step(skip, source), _bare_step(demo_recipe(skip))),
        "mix_step/bank": (_step(mixed, source), _step(plain, source)),
        "mix_step/whitened": (_step(mixed | {"whiten": 0.3}, source), _step(mixed, source)),
    }
    return [
        time_figure(name, "s/step", in_turn(*steps, for_seconds=15, warm_up=5))
        for name, steps in comparisons.items()
    ]


def demo_recipe(method: dict[str, Any]) -> Recipe:
    """Return the demo's recipe of the new model with another method."""
    content = apply_overrides(tomllib.loads(recipe_text("new")), list(SETTINGS))
    return parse_recipe(content | {"method": method}, "the demo's recipe")


def _make_bank(path: Path, source: ArraySource) -> None:
    """Write a denoised bank that is paired with the source."""
    manifest = BankManifest(
        contract=demo_model().contract,
        data_digest=source.digest(),
        rows=len(source),
        dim=DIM,
        dtype="float16",
        classes=source.classes(),
    )
    keys = source.keys()
    writer = BankWriter(path, manifest, source.labels(), keys, resume=False)
    features = clustered_vectors(source.labels(), DIM, seed=2)
    for chunk in writer.missing():
        rows = slice(chunk.start, chunk.stop)
        writer.write(chunk, features[rows], keys[rows])
    denoise(writer.finish())


def _step(method: dict[str, Any], source: ArraySource) -> Callable[[], object]:
    trainer = Trainer(demo_recipe(method), source)
    batches = trainer.batches()
    return lambda: trainer.take_step(next(batches))


def _bare_step(recipe: Recipe) -> Callable[[], object]:
    """Return the least that a step of `skip` is: nothing is read, checked, clipped or reported.

    Forward and backward of the backbone over the forwarded rows and of ArcFace over all rows,
    and the optimiser's step.
    """
    assert isinstance(recipe.optimizer, SGDSettings)
    batch, old_count = recipe.train.batch, int(0.3 * recipe.train.batch)
    preprocessing = recipe.model.preprocessing()
    backbone = build_backbone("small", DIM, preprocessing, recipe.model.options).train()
    weight = nn.Parameter(torch.randn(CLASSES, DIM) * 0.01)
    optimizer = torch.optim.SGD(
        [*backbone.parameters(), weight],
        recipe.optimizer.lr,
        recipe.optimizer.momentum,
        weight_decay=recipe.optimizer.weight_decay,
    )
    rng = np.random.default_rng(3)
    labels = torch.from_numpy(rng.integers(0, CLASSES, batch))
    size = preprocessing.size
    # channels last, as the loop has them; `.contiguous` would not see to it with one channel
    images = (torch.rand(batch - old_count, size, size, 1) * 2 - 1).permute(0, 3, 1, 2)
    old = F.normalize(torch.randn(old_count, DIM))

    def step() -> None:
        values = torch.cat([backbone(images), old])
        optimizer.zero_grad()
        _arcface(values, weight, labels, scale=32.0, margin=0.3).backward()
        optimizer.step()

    return step


def _arcface(values: Tensor, weight: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    cosines = F.linear(F.normalize(values), F.normalize(weight))
    rows = torch.arange(len(labels))
    target = cosines[rows, labels]
    sine = (1 - target * target).clamp_min(1e-6).sqrt()
    moved = target * math.cos(margin) - sine * math.sin(margin)
    return F.cross_entropy(cosines.index_put((rows, labels), moved) * scale, labels)
