"""Flip test: features of each image beside those of its mirror image."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float32

from mixbct.backbones.model import EmbeddingModel
from mixbct.data.loader import read_ahead
from mixbct.data.source import Source


def embed_with_flip(
    model: EmbeddingModel,
    source: Source,
    batch: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Float32[np.ndarray, "n w"]:
    """Embed every image of `source` and its mirror image, read once.

    Returns:
        [n, 2 · dim] raw features: of the image, then of the mirror image. Evaluation sums them.

    Raises:
        BadImageError: an image cannot be read.
    """
    dim = model.contract.dim
    features = np.empty((len(source), 2 * dim), dtype=np.float32)
    pieces = [np.arange(s, min(s + batch, len(source))) for s in range(0, len(source), batch)]
    for rows, images in zip(pieces, read_ahead(pieces, source.read), strict=True):
        seen = torch.from_numpy(images)
        features[rows, :dim] = model.embed(seen).cpu().numpy()
        features[rows, dim:] = model.embed(seen.flip(2)).cpu().numpy()
        if progress:
            progress(int(rows[-1]) + 1, len(source))
    return features
