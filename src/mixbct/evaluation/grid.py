"""The score edges at which pairs are counted.

The edges lie where the false-accept rate passes through evenly spaced powers of ten. Where
exactly they lie does not matter, since the counts at them are exact, so a sample of the queries
is enough to place them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from mixbct.evaluation.scores import Pair, sampled_scores

_EXACT = 4096  # up to so many distinct impostor scores, each is an edge
_SAMPLE_PAIRS = 2**22
_FEWEST_QUERIES = 16
_PER_DECADE = 96
_DECADES = 6
_BINS = 100
_MARGIN = 1e-3  # bins have a width even where all scores are equal


@dataclass(frozen=True)
class Grid:
    """Where pairs are counted.

    Args:
        edges: ascending, with −inf first and +inf last.
        bins: edges of evenly wide histogram bins; the outermost bins take what lies beyond.
    """

    edges: Float32[np.ndarray, " e"]
    bins: Float32[np.ndarray, " h"]


def score_grid(parts: Sequence[Pair], budget: int, device: torch.device) -> Grid:
    """Place the edges by the impostor scores of some queries, of all where the pairs are few."""
    labels, items = parts[0].query.labels, sum(len(part.gallery) for part in parts)
    # evenly over the classes
    wanted = min(len(labels), max(_FEWEST_QUERIES, _SAMPLE_PAIRS // items))
    places = np.linspace(0, len(labels) - 1, wanted).astype(np.int64)
    sample = np.argsort(labels, kind="stable")[places]
    genuine, impostor = sampled_scores(parts, sample, budget, device)
    scores = np.sort(impostor)
    ends = np.concatenate([scores[:1], scores[-1:], genuine])
    edges = scores[np.diff(scores, prepend=-np.inf) > 0]
    if len(edges) > _EXACT:
        rates = np.logspace(-_DECADES, 0, _PER_DECADE * _DECADES + 1)
        ranks = np.maximum(np.rint(rates * len(scores)), 1).astype(np.int64)
        edges = np.unique(scores[len(scores) - ranks])
    return Grid(
        edges=np.concatenate([[-np.inf], edges, [np.inf]]).astype(np.float32),
        bins=np.linspace(ends.min() - _MARGIN, ends.max() + _MARGIN, _BINS + 1).astype(np.float32),
    )
