"""A step of the whole trainer, beside a bare loop over one batch that lies in memory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.data import CLASSES, DIM, image_source
from benchmarks.measure import Figure, in_turn, rate_figure
from benchmarks.mix_step import demo_recipe
from mixbct.backbones.model import build_backbone, to_inputs
from mixbct.data.array import ArraySource
from mixbct.heads.classifier import build_head
from mixbct.recipe import Recipe
from mixbct.training.trainer import OPTIMIZERS, Trainer

IMAGES = 30 * CLASSES


def run(folder: Path) -> list[Figure]:
    """Return train_step/small: images a second of the demo's network with plain ArcFace."""
    source = image_source(folder / "images", IMAGES)
    recipe = demo_recipe({"name": "independent"})
    trainer = Trainer(recipe, source)
    batches = trainer.batches()
    pairs = in_turn(
        lambda: trainer.take_step(next(batches)),
        bare_step(recipe, source),
        for_seconds=15,
        warm_up=5,
    )
    return [rate_figure("train_step/small", "images/s", pairs, recipe.train.batch)]


def bare_step(recipe: Recipe, source: ArraySource) -> Callable[[], object]:
    """Return a step of the same backbone, head and optimiser: nothing is read, checked or said."""
    preprocessing = recipe.model.preprocessing()
    backbone = build_backbone(recipe.model.backbone, DIM, preprocessing, recipe.model.options)
    backbone.train()
    head = build_head(recipe.head, CLASSES, DIM)
    optimizer = OPTIMIZERS[recipe.optimizer.name](
        [*backbone.parameters(), *head.parameters()],
        **recipe.optimizer.model_dump(exclude={"name"}),
    )
    rows = np.arange(recipe.train.batch)
    images = to_inputs(torch.from_numpy(source.read(rows)), preprocessing)
    labels = torch.from_numpy(source.labels()[rows])

    def step() -> None:
        losses = head(backbone(images), labels)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()

    return step
