"""Denoising a bank, beside reading, converting and normalising its rows once.

Labels are in random order, which is the dear case: every row touches another class mean.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16, Int64

from benchmarks.data import clustered_vectors
from benchmarks.measure import Figure, in_turn, time_figure
from mixbct.features.denoise import credible_rows

ROWS = 300_000
CHUNK = 4096  # rows that the reference reads at once
DIM = 512
CLASSES = 10_000


def run(folder: Path) -> list[Figure]:
    """Return denoise: seconds a bank of 300,000 × 512 float16, warm in the page cache."""
    labels = np.random.default_rng(6).permutation(np.arange(ROWS) % CLASSES)
    features = _features(folder / "features.npy", labels)
    pairs = in_turn(
        lambda: credible_rows(features, labels), lambda: read_once(features), for_seconds=20
    )
    return [time_figure("denoise", "s/bank", pairs)]


def read_once(features: Float16[np.ndarray, "n d"]) -> None:
    """Read, convert and normalise every row once, chunk by chunk."""
    for start in range(0, len(features), CHUNK):
        rows = torch.from_numpy(np.array(features[start : start + CHUNK])).float()
        rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True))


def _features(path: Path, labels: Int64[np.ndarray, " n"]) -> Float16[np.ndarray, "n d"]:
    """Write the features of a bank, chunk by chunk, and return them mapped into memory."""
    shape = (len(labels), DIM)
    written = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    for start in range(0, len(labels), CHUNK):
        chunk = slice(start, start + CHUNK)
        written[chunk] = clustered_vectors(labels[chunk], DIM, seed=start)
    written.flush()
    features: np.ndarray = np.load(path, mmap_mode="r")
    return features
