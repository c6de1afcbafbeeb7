"""A small task with everything that any method may need, and checks that every method shares."""

import numpy as np
import torch

from mixbct.data.bank import normalise
from mixbct.features.prototypes import class_means, class_stats, prototypes
from mixbct.heads.classifier import CosineHead, build_head
from mixbct.methods import OldRows, Progress, Task
from mixbct.recipe import ArcFaceSettings

BATCH, CLASSES, DIM, ROWS = 20, 6, 8, 107
PROGRESS = Progress(epoch=2, epochs=5, done=0.4)


def make_task(paired: bool = True, dtype: str = "float16", without: tuple[int, ...] = ()) -> Task:
    """Return 107 rows of six classes with old features; class 2 has no credible row.

    Args:
        paired: whether the bank is of the training rows.
        dtype: in which the bank holds its features.
        without: classes that have no old feature.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, ROWS)
    old_labels = np.where(np.isin(labels, without), -1, labels)
    features = rng.normal(size=(CLASSES, DIM))[labels] + 0.7 * rng.normal(size=(ROWS, DIM))
    stored = features.astype(dtype)
    credible = np.arange(ROWS) % 5 != 0
    credible[labels == 2] = False
    old = OldRows(old_labels, paired, lambda rows: normalise(stored[rows]), credible)
    means, counts = class_means(old.read, old.labels, CLASSES)
    stats = class_stats(old.read, old.labels, means, counts)
    return Task(labels, BATCH, old, prototypes(means, counts), stats)


def make_head(scale: float = 8.0, margin: float = 0.5, dim: int = DIM) -> CosineHead:
    """Return an ArcFace head with fixed weights."""
    torch.manual_seed(0)
    settings = ArcFaceSettings(name="arcface", scale=scale, margin=margin)
    built = build_head(settings, CLASSES, dim)
    assert isinstance(built, CosineHead)
    return built
