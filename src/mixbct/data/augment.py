"""Random shifts and flips of a batch of images."""

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from mixbct.recipe import DataSettings


def augment(
    images: UInt8[Tensor, "b h w c"] | Float32[Tensor, "b d"],
    settings: DataSettings,
    generator: torch.Generator,
) -> UInt8[Tensor, "b h w c"] | Float32[Tensor, "b d"]:
    """Shift each image by up to `settings.shift` pixels either way, and flip half of them.

    Pixels that come in from outside repeat the border. Where neither is asked for, as with
    vectors, what came in goes out.
    """
    if not (settings.flip or settings.shift):
        return images
    batch, height, width, _ = images.shape
    columns = torch.arange(width).expand(batch, width)
    rows = torch.arange(height).expand(batch, height)
    if settings.flip:
        flipped = torch.rand(batch, 1, generator=generator) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    if settings.shift:
        reach = settings.shift
        offsets = torch.randint(-reach, reach + 1, (2, batch, 1), generator=generator)
        rows = (rows + offsets[0]).clamp(0, height - 1)
        columns = (columns + offsets[1]).clamp(0, width - 1)
    # NumPy gathers on one thread. A second team of torch's threads, in the thread that reads ahead,
    # would fight the training step's for the cores
    picked = np.arange(batch)[:, None, None]
    gathered = images.numpy()[picked, rows.numpy()[:, :, None], columns.numpy()[:, None, :]]
    return torch.from_numpy(gathered)
