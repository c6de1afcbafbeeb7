"""Made-up data of the shape of the demo's: grey 32 × 32 images of 600 classes, vectors, banks."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from mixbct.backbones.model import EmbeddingModel, build_backbone
from mixbct.data.array import ArraySource, write_array
from mixbct.schemas.model import Contract, ModelManifest, Preprocessing

CLASSES = 600
SIZE = 32
DIM = 128
WIDTH = 32


def image_source(folder: Path, images: int, size: int = SIZE) -> ArraySource:
    """Write an image array: one random pattern a class, and noise."""
    rng = np.random.default_rng(1)
    labels = np.arange(images) % CLASSES
    patterns = rng.integers(0, 128, (CLASSES, size, size, 1), dtype=np.uint8)
    noise = rng.integers(0, 128, (images, size, size, 1), dtype=np.uint8)
    write_array(
        folder,
        patterns[labels] + noise,
        labels,
        [f"class {i}" for i in range(CLASSES)],
        [f"image {i}" for i in range(images)],
        [],
        name="benchmark",
        origin={},
    )
    return ArraySource(folder)


def demo_model() -> EmbeddingModel:
    """Return the demo's new model, untrained."""
    preprocessing = Preprocessing(size=SIZE, channels=1)
    backbone = build_backbone("small", DIM, preprocessing, {"width": WIDTH})
    contract = Contract(name="benchmark", weights="untrained", preprocessing=preprocessing, dim=DIM)
    return EmbeddingModel(backbone, ModelManifest(backbone="small", contract=contract))


def clustered_vectors(
    labels: Int64[np.ndarray, " n"], dim: int, seed: int
) -> Float32[np.ndarray, "n dim"]:
    """Return vectors around one centre a label, as an embedding model gives them.

    The centres are the same for every `seed`, the noise is not.
    """
    centres = np.random.default_rng(0).standard_normal((labels.max() + 1, dim), np.float32)
    noise = np.random.default_rng(seed).standard_normal((len(labels), dim), np.float32)
    vectors: np.ndarray = noise + centres[labels]
    return vectors
