"""The score edges at which pairs are counted, and exact thresholds at a false-accept rate.

The edges lie where the false-accept rate passes through evenly spaced powers of ten. Where
exactly they lie does not matter, since the counts at them are exact, so a sample of the queries
is enough to place them.

A sample says between which two scores a threshold should lie. The walk over the pairs counts
what lies above and keeps only the scores between those two, and the threshold is one of these. If
it lies elsewhere, the counts at the grid's edges say where, and a second walk finds it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from mixbct.errors import DataError
from mixbct.evaluation.scores import Pair, sampled_scores

_EXACT = 4096  # up to so many distinct impostor scores, each is an edge
_SAMPLE_PAIRS = 2**22
_FEWEST_QUERIES = 16
_PER_DECADE = 96
_DECADES = 6
_BINS = 100
_MARGIN = 1e-3  # bins have a width even where all scores are equal

Brackets = Float32[np.ndarray, "f 2"]
"""For each rate a score below its threshold, and one at or above it."""
_SAMPLE_QUERIES, _SAMPLE_ITEMS = 4096, 1024
_DEVIATIONS = 6.0  # of a count in the sample; queries of one class are not independent


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


@dataclass(frozen=True)
class Threshold:
    """Accepting every score above `value` gives the largest TAR with a FAR of at most `far`.

    Args:
        far: the rate asked for.
        value: the (⌊far · impostor pairs⌋ + 1)-th largest impostor score.
        genuine: how many genuine pairs it accepts.
        impostors: how many impostor pairs it accepts.
        resolved: there are at least 1/far impostor pairs.
    """

    far: float
    value: float
    genuine: int
    impostors: int
    resolved: bool


@dataclass(frozen=True)
class Trials:
    """Scores of genuine and impostor trials, each ascending; made by `trials`.

    Args:
        genuine: [g]; −inf for one that no threshold accepts.
        impostor: [i].
    """

    genuine: Float32[np.ndarray, " g"]
    impostor: Float32[np.ndarray, " i"]

    def accepted(self, value: float) -> tuple[int, int]:
        """Return how many genuine and how many impostor trials score above `value`."""
        at = np.float32(value)
        genuine = len(self.genuine) - int(np.searchsorted(self.genuine, at, "right"))
        return genuine, len(self.impostor) - int(np.searchsorted(self.impostor, at, "right"))

    def below_all(self) -> float:
        """Return a threshold just below every score that is finite."""
        finite = self.genuine[np.searchsorted(self.genuine, -np.inf, "right") :]
        lowest = min([self.impostor[0], *finite[:1]])
        return float(np.nextafter(lowest, np.float32(-np.inf), dtype=np.float32))


def trials(genuine: Float32[np.ndarray, " g"], impostor: Float32[np.ndarray, " i"]) -> Trials:
    """Sort the scores of genuine and of impostor trials.

    Raises:
        DataError: there is none of one kind, or a score is NaN.
    """
    if not len(genuine) or not len(impostor):
        raise DataError(
            f"{len(genuine)} genuine and {len(impostor)} impostor trials: at least one of each is "
            "needed for rates"
        )
    found = Trials(np.sort(genuine), np.sort(impostor))
    # NaN sorts last
    if np.isnan(found.genuine[-1]) or np.isnan(found.impostor[-1]):
        raise DataError("scores that are not numbers; are the features finite?")
    return found


def allowed_impostors(far: float, pairs: int) -> int:
    """Return the largest k with k / pairs ≤ far.

    >>> allowed_impostors(0.29, 100)
    29
    """
    # far * pairs may fall on either side of an integer; the quotient decides
    allowed = math.floor(far * pairs) + 1
    while allowed / pairs > far:
        allowed -= 1
    return allowed


def guess_brackets(
    parts: Sequence[Pair], fars: tuple[float, ...], device: torch.device
) -> Brackets:
    """Return where the threshold at each rate should lie, by a sample of queries and items."""
    queries = len(parts[0].query)
    rows = np.linspace(0, queries - 1, min(queries, _SAMPLE_QUERIES)).astype(np.int64)
    share = min(1.0, _SAMPLE_ITEMS / sum(len(part.gallery) for part in parts))
    some = []
    for part in parts:
        wanted = max(1, round(share * len(part.gallery)))
        items = np.linspace(0, len(part.gallery) - 1, wanted).astype(np.int64)
        some.append(Pair(part.query, part.gallery.take(items)))
    falling = np.sort(sampled_scores(some, rows, 0, device)[1])[::-1]
    ends = np.concatenate([[np.inf], falling, [-np.inf]]).astype(np.float32)
    expected = np.array(fars) * len(falling)
    margin = _DEVIATIONS * np.sqrt(expected) + 3
    places = np.stack([expected + margin, expected - margin], axis=1)
    return np.asarray(ends[np.rint(places).clip(0, len(ends) - 1).astype(np.int64)])
