"""Where the old features of each class lie: means, prototypes, radii.

All are taken over the bank in chunks, so that memory holds a few chunks, a [C, D] table, and a few
numbers a row. Processes share the classes out, so that none reads it all. Old features of classes
that are not trained (label −1) take no part; a class without an old feature is marked as unknown,
and its row holds zeros, never NaN.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from mixbct.data.loader import read_ahead
from mixbct.distributed import ALONE, World

CHUNK = 8192

Labels = Int64[np.ndarray, " m"]
Read = Callable[[Int64[np.ndarray, " n"]], Float32[np.ndarray, "n d"]]
"""Gives the normalised features of some rows."""


@dataclass(frozen=True)
class ClassDirections:
    """A direction a class.

    Attributes:
        values: [C, D] unit rows, zeros where not known.
        known: [C] which classes have one.
    """

    values: Float32[Tensor, "c d"]
    known: Bool[Tensor, " c"]


@dataclass(frozen=True)
class ClassStats:
    """Where each class's old features lie.

    Attributes:
        means: [C, D] mean of the normalised features, itself not normalised; zeros for none.
        counts: [C] number of features.
        radii: [C] largest distance of a feature to its class mean, outliers cut; 0 for none.
        variance: mean over features and dimensions of the squared offset from the class mean.
    """

    means: Float32[Tensor, "c d"]
    counts: Int64[Tensor, " c"]
    radii: Float32[Tensor, " c"]
    variance: float


def class_means(
    read: Read, labels: Labels, classes: int, world: World = ALONE
) -> tuple[Float32[Tensor, "c d"], Int64[Tensor, " c"]]:
    """Return the mean normalised feature of each class, and how many features it has.

    Args:
        read: gives normalised features.
        labels: class of each row in [0, classes), or −1; one at least is a class.
        classes: C.
        world: the processes, each of which gets them.
    """
    counts = torch.from_numpy(np.bincount(labels[labels >= 0], minlength=classes))
    sums = torch.zeros(classes, read(np.flatnonzero(labels >= 0)[:1]).shape[1])
    for rows, features in _chunks(read, labels, classes, world):
        sums.index_add_(0, torch.from_numpy(labels[rows]), features)
    # to the bit, whatever the number of processes: the others have zeros there
    return world.reduce(sums) / counts.clamp_min(1)[:, None], counts


def prototypes(means: Float32[Tensor, "c d"], counts: Int64[Tensor, " c"]) -> ClassDirections:
    """Return the normalised means. Features that cancel out give no direction."""
    # norms are summed as float64, here and below: processors add in another order each
    directions = F.normalize(means.double()).float()
    known = (counts > 0) & (torch.linalg.vector_norm(means, dim=1) > 1e-6)
    return ClassDirections(directions * known[:, None], known)


def class_stats(
    read: Read,
    labels: Labels,
    means: Float32[Tensor, "c d"],
    counts: Int64[Tensor, " c"],
    world: World = ALONE,
) -> ClassStats:
    """Return how far each class's features spread around its mean; see `class_means`.

    In a class of four or more, distances above q₃ + 1.5·(q₃ − q₁) are outliers, where q₁ and q₃
    are the distances with ⌊n/4⌋ and ⌊3n/4⌋ smaller ones (Pan et al., "Boundary-Aware
    Backward-Compatible Representation via Adversarial Learning in Image Retrieval", CVPR 2023,
    and its code).
    """
    own = world.span(world.counts(len(counts)))
    found, labelled = [np.empty(0, np.float32)], [np.empty(0, np.int64)]
    for rows, features in _chunks(read, labels, len(counts), world):
        offsets = (features - means[labels[rows]]).double()
        found.append(torch.linalg.vector_norm(offsets, dim=1).float().numpy())
        labelled.append(labels[rows] - own.start)
    distances, classes = np.concatenate(found), np.concatenate(labelled)
    order = np.lexsort((distances, classes))
    distances, classes = distances[order], classes[order]
    sizes = counts.numpy()[own]
    radii = np.zeros(len(counts), dtype=np.float32)
    if len(distances):
        starts = np.minimum(np.cumsum(sizes) - sizes, len(distances) - 1)
        # an empty class looks at its neighbour's distances, and is never asked
        low, high = distances[starts + sizes // 4], distances[starts + 3 * sizes // 4]
        limits = np.where(sizes >= 4, high + 1.5 * (high - low), np.inf)
        kept = distances <= limits[classes]
        np.maximum.at(radii[own], classes[kept], distances[kept])
    squares = torch.tensor(np.square(distances, dtype=np.float64).sum())
    variance = float(world.reduce(squares)) / int(counts.sum()) / means.shape[1]
    return ClassStats(means, counts, world.reduce(torch.from_numpy(radii)), variance)


def _chunks(
    read: Read, labels: Labels, classes: int, world: World
) -> Iterator[tuple[Int64[np.ndarray, " n"], Float32[Tensor, "n d"]]]:
    """Yield the rows of this process's classes, in order, with their features, read ahead."""
    own = world.span(world.counts(classes))
    rows = np.flatnonzero((labels >= own.start) & (labels < own.stop))
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    yield from read_ahead(chunks, lambda chunk: (chunk, torch.from_numpy(read(chunk))))
