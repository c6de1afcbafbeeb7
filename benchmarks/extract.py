"""Extraction into a bank on disk, beside the forward pass alone over images in memory."""

from itertools import count
from pathlib import Path

import numpy as np
import torch

from benchmarks.data import demo_model, image_source
from benchmarks.measure import Figure, in_turn, rate_figure
from mixbct.backbones.model import to_inputs
from mixbct.features.extract import extract

IMAGES = 10_000
BATCH = 512


def run(folder: Path) -> list[Figure]:
    """Return extract: images read, embedded and written a second."""
    source = image_source(folder / "images", IMAGES)
    model = demo_model()
    everything = torch.from_numpy(source.read(np.arange(IMAGES)))
    inputs = to_inputs(everything, model.preprocessing).split(BATCH)
    numbers = count()

    def extract_all() -> None:
        extract(model, source, folder / f"bank {next(numbers)}", batch=BATCH)

    @torch.inference_mode()
    def forward_all() -> None:
        for images in inputs:
            model.backbone(images)

    pairs = in_turn(extract_all, forward_all, for_seconds=30, warm_up=1, at_least=3)
    return [rate_figure("extract", "images/s", pairs, IMAGES)]
