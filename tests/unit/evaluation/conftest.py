"""Embeddings to evaluate: with distinct scores, and with many that tie exactly."""

from collections.abc import Callable

import numpy as np
import pytest

from mixbct.data.bank import normalise
from mixbct.evaluation.scores import Embeddings

MakeSides = Callable[..., tuple[Embeddings, Embeddings]]


@pytest.fixture
def clustered() -> MakeSides:
    """Queries and gallery around random class centres."""

    def make(
        queries: int = 60,
        gallery: int = 90,
        classes: int = 10,
        dim: int = 16,
        noise: float = 1.0,
        seed: int = 0,
    ) -> tuple[Embeddings, Embeddings]:
        rng = np.random.default_rng(seed)
        centres = rng.standard_normal((classes, dim))

        def side(n: int) -> Embeddings:
            labels = rng.permutation(np.arange(n, dtype=np.int64) % classes)
            return Embeddings(
                normalise(centres[labels] + noise * rng.standard_normal((n, dim))), labels
            )

        return side(queries), side(gallery)

    return make


@pytest.fixture
def tied() -> tuple[Embeddings, Embeddings]:
    """Sign vectors: every product is exact in float32 and few scores are distinct.

    Class 3 is in the queries only, class 9 in the gallery only, and items are repeated.
    """
    rng = np.random.default_rng(1)
    centres = rng.choice([-1.0, 1.0], size=(10, 64))

    def side(n: int, classes: list[int]) -> Embeddings:
        labels = rng.choice(classes, size=n).astype(np.int64)
        flips = np.where(rng.random((n, 64)) < 0.42, -1.0, 1.0)
        features = (centres[labels] * flips / 8).astype(np.float32)
        return Embeddings(np.repeat(features, 2, axis=0), np.repeat(labels, 2))

    return side(50, list(range(9))), side(80, [0, 1, 2, 4, 5, 6, 7, 8, 9])
