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
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, Integer

from mixbct.errors import DataError
from mixbct.evaluation.scores import Pair, sampled_scores

_EXACT = 4096  # up to so many distinct impostor scores, each is an edge
_SAMPLE_PAIRS = 2**22
_FEWEST_QUERIES = 16
_PER_DECADE = 96
_DECADES = 6
_BINS = 100
_MARKS = 2**13
_FEW_TIES, _MOST_TIES = 100, 0.05
_FINEST = -21  # of steps as powers of two: float32 holds a score and its rounding
_MARGIN = 1e-3  # bins have a width even where all scores are equal

Brackets = Float32[np.ndarray, "f 2"]
"""For each rate a score below its threshold, and one at or above it."""
_SAMPLE_QUERIES, _SAMPLE_ITEMS = 4096, 1024
_DEVIATIONS = 6.0  # of a count in the sample; queries of one class are not independent


@dataclass(frozen=True)
class Grid:
    """Where the pairs of a gallery are counted; the grids of one walk share their marks.

    Args:
        marks: ascending; the code of a score is how many of them lie below it.
        edges: marks, with −inf first and +inf last.
        bins: edges of histogram bins, evenly wide but for a mark's distance; the outermost bins
            take what lies beyond.
        step: 0 where marks lie anywhere. Else scores are rounded to multiples of it, which codes
            count from `lowest` on, and marks lie half-way between two multiples.
        lowest: a multiple; scores below count as it.
    """

    marks: Float32[np.ndarray, " m"]
    edges: Float32[np.ndarray, " e"]
    bins: Float32[np.ndarray, " h"]
    step: float = 0.0
    lowest: float = 0.0

    @cached_property
    def starts(self) -> Int64[np.ndarray, " a"]:
        """Return the codes from which scores lie above each edge, then each inner end of a bin."""
        starts = np.searchsorted(self.marks, [*self.edges, *self.bins[1:-1]]) + 1
        starts[0], starts[len(self.edges) - 1] = 0, len(self.marks) + 1
        return starts

    def codes(
        self,
        scores: Float32[np.ndarray, "b s"],
        added: Int64[np.ndarray, " b"],
        room: Float32[np.ndarray, "b s"],
    ) -> Integer[np.ndarray, "b s"]:
        """Return the code of each score and what is added to its row's, in `room` if need be."""
        if not self.step:
            return np.asarray(np.searchsorted(self.marks, scores) + added[:, None])
        # of numbers from 2²³ to 2²⁴ steps the last bit is a step: the sum is rounded to one
        zero = 3 * 2**22 * self.step
        ends = np.array([self.lowest, self.lowest + len(self.marks) * self.step]) + zero
        first, last = ends.astype(np.float32)
        np.add(scores, np.float32(zero), out=room)
        np.clip(room, first, last, out=room)
        codes = room.view(np.int32)
        codes -= (first.view(np.int32) - added[:, None]).astype(np.int32)
        return codes

    def skipped(self, counts: Int64[np.ndarray, " c"]) -> Bool[np.ndarray, " s"]:
        """Return from counts of codes whether scores lie strictly between two edges."""
        below = _below(counts)
        starts = self.starts[: len(self.edges)]
        stops = starts[1:].copy()
        if not self.step:
            # a mark lies just below each edge: what is between the two is the edge
            stops[:-1] -= 1
        return np.asarray(below[stops] > below[starts[:-1]])


def above_places(
    counts: Int64[np.ndarray, "*k c"], places: Int64[np.ndarray, " a"]
) -> Int64[np.ndarray, "*k a"]:
    """Return from counts of codes how many scores have each of some codes, or a higher one."""
    below = _below(counts)
    return np.asarray(below[..., -1:] - below[..., places])


def _below(counts: Int64[np.ndarray, "*k c"]) -> Int64[np.ndarray, "*k d"]:
    """Return how many scores have a code below each, and below none."""
    below = np.zeros((*counts.shape[:-1], counts.shape[-1] + 1), np.int64)
    np.cumsum(counts, axis=-1, out=below[..., 1:])
    return below


def score_grids(
    galleries: Sequence[Sequence[Pair]], budget: int, device: torch.device
) -> list[Grid]:
    """Place edges by the impostor scores of some queries, of all where the pairs are few.

    Marks are even where pairs are many, but not where many scores tie, or nearly: within such a
    group nothing lies between two edges, and even marks would see no end of it.
    """
    found = [_sampled_edges(parts, budget, device) for parts in galleries]
    low = min(ends[0] for _, ends, _ in found)
    high = max(ends[1] for _, ends, _ in found)
    marks, step, lowest = even_marks(low, high)
    if all(
        scores is not None and _evenly_seen(scores, marks) and 8 * (top - bottom) > high - low
        for _, (bottom, top), scores in found
    ):
        return [
            Grid(
                marks,
                _between_infinities(np.unique(marks[np.searchsorted(marks, edges)])),
                marks[np.searchsorted(marks[:-1], np.linspace(*ends, _BINS + 1))],
                step,
                lowest,
            )
            for edges, ends, _ in found
        ]
    bins = [np.linspace(*ends, _BINS + 1).astype(np.float32) for _, ends, _ in found]
    below = [np.nextafter(edges, np.float32(-np.inf)) for edges, _, _ in found]
    some = [*below, *(edges for edges, _, _ in found), *(each[1:-1] for each in bins)]
    marks = np.unique(np.concatenate(some))
    return [
        Grid(marks, _between_infinities(edges), each)
        for (edges, _, _), each in zip(found, bins, strict=True)
    ]


def _sampled_edges(
    parts: Sequence[Pair], budget: int, device: torch.device
) -> tuple[Float32[np.ndarray, " e"], tuple[float, float], Float32[np.ndarray, " s"] | None]:
    """Return edges, the ends of all scores, and those of a sample where it is not everything."""
    labels, items = parts[0].query.labels, sum(len(part.gallery) for part in parts)
    # evenly over the classes
    wanted = min(len(labels), max(_FEWEST_QUERIES, _SAMPLE_PAIRS // items))
    places = np.linspace(0, len(labels) - 1, wanted).astype(np.int64)
    sample = np.argsort(labels, kind="stable")[places]
    genuine, impostor = sampled_scores(parts, sample, budget, device)
    scores = np.sort(impostor)
    every = np.concatenate([scores[:1], scores[-1:], genuine])
    ends = float(every.min()) - _MARGIN, float(every.max()) + _MARGIN
    edges = scores[np.diff(scores, prepend=-np.inf) > 0]
    if len(edges) <= _EXACT:
        return edges, ends, None
    rates = np.logspace(-_DECADES, 0, _PER_DECADE * _DECADES + 1)
    ranks = np.maximum(np.rint(rates * len(scores)), 1).astype(np.int64)
    return np.unique(scores[len(scores) - ranks]), ends, scores if wanted < len(labels) else None


def _evenly_seen(scores: Float32[np.ndarray, " s"], marks: Float32[np.ndarray, " m"]) -> bool:
    """Return whether no code has many of the ascending scores that have it or a higher one."""
    starts = np.searchsorted(scores, marks, side="right")
    counts = np.diff(starts, append=len(scores))
    return bool((counts <= np.maximum(_FEW_TIES, _MOST_TIES * (len(scores) - starts))).all())


def even_marks(low: float, high: float) -> tuple[Float32[np.ndarray, " m"], float, float]:
    """Return some thousand marks from one score to another, their step and the lowest multiple."""
    step = 2.0 ** max(_FINEST, math.ceil(math.log2((high - low) / _MARKS)))
    multiples = np.arange(math.floor(low / step), math.ceil(high / step))
    marks = ((multiples + 0.5) * step).astype(np.float32)
    # what lies half-way is rounded to the even one, which may be the upper
    marks[multiples % 2 == 1] = np.nextafter(marks[multiples % 2 == 1], np.float32(-np.inf))
    return marks, step, float(multiples[0] * step)


def _between_infinities(edges: Float32[np.ndarray, " e"]) -> Float32[np.ndarray, " i"]:
    return np.concatenate([[-np.inf], edges, [np.inf]]).astype(np.float32)


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
