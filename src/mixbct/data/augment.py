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
    of, reach = of or batch, settings.shift
    flipped, offsets = torch.zeros(of, dtype=torch.bool), torch.zeros(2, of, dtype=torch.int64)
    if settings.flip:
        flipped = torch.rand(of, generator=generator) < 0.5
    if reach:
        offsets = torch.randint(-reach, reach + 1, (2, of), generator=generator)
    # NumPy copies on one thread. A second team of torch's threads, in the thread that reads ahead,
    # would fight the training step's for the cores
    pixels = images.numpy()
    moved = np.empty_like(pixels)
    if reach:
        pixels = _bordered(pixels, reach)
    corners = (offsets[:, own].T + reach).tolist()
    for to, image, flip, (top, left) in zip(
        moved, pixels, flipped[own].tolist(), corners, strict=True
    ):
        window = image[top : top + height, left : left + width]
        to[:] = window[:, ::-1] if flip else window
    return torch.from_numpy(moved)


def _bordered(images: UInt8[np.ndarray, "b h w c"], reach: int) -> UInt8[np.ndarray, "b p q c"]:
    """Return images whose outermost pixels go on for so many; `np.pad` takes up to four times."""
    batch, height, width, channels = images.shape
    wider = np.empty((batch, height + 2 * reach, width + 2 * reach, channels), images.dtype)
    rows = wider[:, reach:-reach]
    rows[:, :, reach:-reach] = images
    rows[:, :, :reach], rows[:, :, -reach:] = images[:, :, :1], images[:, :, -1:]
    wider[:, :reach], wider[:, -reach:] = rows[:, :1], rows[:, -1:]
    return wider
