"""Items that a person names to be stored or searched with: images, or vectors in their place."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from typer import BadParameter

from mixbct.backbones.model import EmbeddingModel
from mixbct.data.foreign_bank import DTYPES
from mixbct.data.images import decode
from mixbct.errors import FeatureError
from mixbct.reading import open_array

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
    preprocessing = model.preprocessing
    pixels = np.stack([decode(Path(item), preprocessing) for item in items])
    return np.asarray(model.embed(torch.from_numpy(pixels)).cpu().numpy())


def _vectors(item: str) -> Float[np.ndarray, "n d"]:
    if item != STDIN:
        return _two_dimensional(Path(item), item)
    with tempfile.NamedTemporaryFile(suffix=".npy") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        try:
            return np.array(_two_dimensional(Path(copy.name), item))
        except FeatureError as error:
            raise FeatureError(str(error).replace(copy.name, "standard input")) from None


def _two_dimensional(path: Path, item: str) -> Float[np.ndarray, "n d"]:
    found = np.atleast_2d(open_array(path, "vectors", FeatureError, DTYPES))
    if found.ndim > 2 or not found.size:
        raise FeatureError(f"{item} holds {found.shape}; expected a vector, or rows of vectors")
    return found
