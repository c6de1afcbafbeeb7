"""Items that a person names to be stored or searched with: images, or vectors in their place."""

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from typer import BadParameter

from mixbct.backbones.model import EmbeddingModel
from mixbct.data.images import decode
from mixbct.errors import FeatureError
from mixbct.reading import read_bytes, reason

STDIN = "-"


def read_given(
    items: Sequence[str], load: Callable[[], EmbeddingModel]
) -> tuple[list[str], Float[np.ndarray, "n d"]]:
    """Return a name and a vector of each item: images are embedded, vectors are read.

    Args:
        items: paths of images; or of .npy files with a vector or some, `-` for standard input.
        load: gives the model, where there are images.

    Raises:
        FeatureError: a file does not hold vectors.
        BadImageError: an image cannot be decoded.
    """
    files = [item for item in items if item == STDIN or item.lower().endswith(".npy")]
    if files and len(files) < len(items):
        raise BadParameter("give images or vectors (.npy), not both at once")
    if not files:
        return list(items), embed_images(load(), items)
    parts = [_vectors(item) for item in files]
    names = [
        item if len(part) == 1 else f"{item}[{row}]"
        for item, part in zip(files, parts, strict=True)
        for row in range(len(part))
    ]
    if len({part.shape[1] for part in parts}) > 1:
        raise FeatureError(f"{' and '.join(files)} hold vectors of different dimensions")
    return names, np.concatenate(parts)


def embed_images(model: EmbeddingModel, items: Sequence[str]) -> Float[np.ndarray, "n d"]:
    """Return the raw vectors of images by their paths.

    Raises:
        BadImageError: an image cannot be decoded.
        ModelError: the model is a head, which takes no image.
    """
    pixels = np.stack([decode(Path(item), model.preprocessing) for item in items])
    return np.asarray(model.embed(torch.from_numpy(pixels)).cpu().numpy())


def _vectors(item: str) -> Float[np.ndarray, "n d"]:
    told = "standard input" if item == STDIN else item
    content = (
        sys.stdin.buffer.read() if item == STDIN else read_bytes(Path(item), "file", FeatureError)
    )
    try:
        found = np.atleast_2d(np.load(io.BytesIO(content), allow_pickle=False))
        if found.dtype.kind != "f" or found.ndim > 2 or not found.size:
            raise ValueError(
                f"it holds {found.dtype} {found.shape}; expected a vector, or rows of them"
            )
    except Exception as problem:  # NumPy's header is Python text, and fails in many ways
        why = reason(problem) if content else "it is empty"
        raise FeatureError(f"{told} cannot be read as vectors (.npy): {why}") from problem
    return np.asarray(found)
