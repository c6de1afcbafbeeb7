"""Random shifts and flips of a batch of images."""

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from mixbct.recipe import DataSettings


def augment(
    images: UInt8[Tensor, "b h w c"] | Float32[Tensor, "b d"],
    settings: DataSettings,
    generator: torch.Generator,
    of: int | None = None,
    own: Int64[np.ndarray, " b"] | slice = slice(None),
) -> UInt8[Tensor, "b h w c"] | Float32[Tensor, "b d"]:
    """Shift each image by up to `settings.shift` pixels either way, and flip half of them.

    Pixels that come in from outside repeat the border. Where neither is asked for, as with
    vectors, what came in goes out.

    Args:
        images: some of a batch.
        settings: what is asked for.
        generator: of the batch's shifts and flips.
        of: how many images the whole batch has; none: these are all.
        own: which of the batch these are, so that each moves as in the whole batch.
    """
    if not (settings.flip or settings.shift):
        return images
    batch, height, width, _ = images.shape
    of = of or batch
    columns = torch.arange(width).expand(batch, width)
    rows = torch.arange(height).expand(batch, height)
    if settings.flip:
        flipped = (torch.rand(of, 1, generator=generator) < 0.5)[own]
        columns = torch.where(flipped, columns.flip(1), columns)
    if settings.shift:
        reach = settings.shift
        offsets = torch.randint(-reach, reach + 1, (2, of, 1), generator=generator)[:, own]
        rows = (rows + offsets[0]).clamp(0, height - 1)
        columns = (columns + offsets[1]).clamp(0, width - 1)
    # NumPy gathers on one thread. A second team of torch's threads, in the thread that reads ahead,
    # would fight the training step's for the cores
    picked = np.arange(batch)[:, None, None]
    gathered = images.numpy()[picked, rows.numpy()[:, :, None], columns.numpy()[:, None, :]]
    return torch.from_numpy(gathered)
