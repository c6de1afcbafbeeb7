"""What is counted of the scores, a block of them at a time.

A mark is a score at which pairs can be counted, and the code of a score is how many marks lie
below it. Impostor pairs are counted by code, class by class, and never sorted: what lies above an
edge is a sum of counts. Codes serve every gallery that a block belongs to.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from torch import Tensor

from mixbct.evaluation.scores import Pair, PairBlock, genuine_counts
from mixbct.evaluation.thresholds import (
    Brackets,
    Grid,
    Threshold,
    Trials,
    above_places,
    allowed_impostors,
)

Weights = UInt8[np.ndarray, "r c"] | Float64[np.ndarray, "r c"]
"""How often each query class is drawn in each replicate."""

_AT_A_TIME = 2**22  # scores, of all threads together; of more than eight, each has an eighth
# a long row is compared with up to so many low genuine scores one by one; others are sorted
_LONG, _FEW = 2**13, 32


@dataclass(frozen=True)
class Seen:
    """What is counted of a block's impostor pairs with one part.

    Args:
        above: [k, a] pairs of each class whose code is one of those asked for, or higher.
        codes: [m + 1] pairs of each code.
        at_least: [b, p] pairs of each query that score at least each genuine score.
        highest: [t] scores above all that no threshold can be.
    """

    above: Int64[np.ndarray, "k a"]
    codes: Int64[np.ndarray, " c"]
    at_least: Int64[np.ndarray, "b p"]
    highest: Float32[np.ndarray, " t"]


def see(
    block: PairBlock,
    genuine: Float32[Tensor, "b p"],
    begins: Int64[np.ndarray, " k"],
    grid: Grid,
    places: Int64[np.ndarray, " a"],
    low: float,
    threads: ThreadPoolExecutor,
) -> Seen:
    """Count the impostor pairs of a block, whose buffer may be sorted on the way.

    Args:
        block: of queries class by class.
        genuine: their genuine scores with every part, −inf where there is none.
        begins: the row with which each class begins.
        grid: one of those that share its marks.
        places: codes from which to count.
        low: scores above it are kept.
        threads: share the rows in main memory.
    """
    own = (block.genuine > -torch.inf).sum(dim=1).cpu().numpy()
    of_class = np.zeros(len(own), np.int64)
    of_class[begins[1:]] = 1
    of_class = of_class.cumsum()
    if block.impostor.device.type != "cpu":
        return see_on_device(block.impostor, genuine, own, of_class, grid, places, low)
    scores, others = block.impostor.numpy(), genuine.numpy()

    def look(rows: Int64[np.ndarray, " l"]) -> Seen:
        some = slice(rows[0], rows[-1] + 1)
        local = of_class[some] - of_class[rows[0]]
        return _see_rows(scores[some], others[some], own[some], local, grid, places, low, each)

    shares = np.array_split(np.arange(len(scores)), min(len(scores), torch.get_num_threads()))
    each = _AT_A_TIME // min(len(shares), 8)
    found = list(threads.map(look, shares))
    above = np.zeros((len(begins), len(places)), np.int64)
    for rows, one in zip(shares, found, strict=True):
        # a class may stand in two shares
        above[of_class[rows[0]] : of_class[rows[-1]] + 1] += one.above
    return Seen(
        above,
        np.sum([one.codes for one in found], axis=0),
        np.concatenate([one.at_least for one in found]),
        np.concatenate([one.highest for one in found]),
    )


def _see_rows(
    scores: Float32[np.ndarray, "b s"],
    genuine: Float32[np.ndarray, "b p"],
    own: Int64[np.ndarray, " b"],
    of_class: Int64[np.ndarray, " b"],
    grid: Grid,
    places: Int64[np.ndarray, " a"],
    low: float,
    at_a_time: int,
) -> Seen:
    """Count some rows; `own`: how many of each are no impostor pairs; classes count from 0."""
    size, items = len(grid.marks) + 1, scores.shape[1]
    # long steps, since threads lose time whenever they meet between two
    most = max(1, min(at_a_time // items, at_a_time // (4 * size)))
    room, flags = np.empty((most, items), np.float32), np.empty((most, items), np.bool_)
    above, codes = np.zeros((of_class[-1] + 1, len(places)), np.int64), np.zeros(size, np.int64)
    at_least, highest = np.empty(genuine.shape, np.int64), []
    for first in range(0, len(scores), most):
        rows = slice(first, first + most)
        some = scores[rows]
        to, over = room[: len(some)], flags[: len(some)]
        begin, end = of_class[rows][[0, -1]] + [0, 1]
        local = of_class[rows] - begin
        found = grid.codes(some, size * local, to)
        # of NumPy's and torch's, the one that lets other threads run
        counted = torch.bincount(torch.from_numpy(found.ravel()), minlength=size * (end - begin))
        counts = counted.numpy().reshape(-1, size)
        np.subtract.at(counts[:, 0], local, own[rows])
        codes += counts.sum(axis=0)
        above[begin:end] += above_places(counts, places)
        np.greater(some, low, out=over)
        highest.append(some.ravel().take(np.flatnonzero(over)))
        at_least[rows] = _at_least(some, genuine[rows], low, over, highest[-1])
    return Seen(above, codes, at_least, np.concatenate(highest))


def _at_least(
    scores: Float32[np.ndarray, "b s"],
    genuine: Float32[np.ndarray, "b p"],
    low: float,
    over: Bool[np.ndarray, "b s"],
    highest: Float32[np.ndarray, " t"],
) -> Int64[np.ndarray, "b p"]:
    """Return how many scores of each row are at least each genuine one; they may be sorted.

    Args:
        scores: of impostor pairs.
        genuine: of each row; for −inf anything is returned.
        low: some score.
        over: which scores lie above it; written over.
        highest: those scores.
    """
    items = scores.shape[1]
    lower = list(zip(*np.nonzero((genuine <= low) & (genuine > -np.inf)), strict=True))
    if items < _LONG or len(lower) > _FEW * len(scores):
        scores.sort(axis=1)
        below = torch.searchsorted(torch.from_numpy(scores), torch.from_numpy(genuine))
        return np.asarray(items - below.numpy())
    found = np.empty(genuine.shape, np.int64)
    cuts = np.cumsum([np.count_nonzero(row) for row in over])
    for row, above in enumerate(np.split(highest, cuts[:-1])):
        above.sort()
        found[row] = len(above) - np.searchsorted(above, genuine[row])
    for place in lower:
        np.greater_equal(scores[place[0]], genuine[place], out=over[0])
        found[place] = np.count_nonzero(over[0])
    return found


def see_on_device(
    scores: Float32[Tensor, "b s"],
    genuine: Float32[Tensor, "b p"],
    own: Int64[np.ndarray, " b"],
    of_class: Int64[np.ndarray, " b"],
    grid: Grid,
    places: Int64[np.ndarray, " a"],
    low: float,
) -> Seen:
    """Return what `see` does, all rows at once."""
    classes, size = torch.from_numpy(of_class), len(grid.marks) + 1
    codes = torch.bucketize(scores, torch.from_numpy(grid.marks).to(scores.device))
    codes += size * classes.to(scores.device)[:, None]
    whole = size * (int(of_class[-1]) + 1)
    counts = torch.bincount(codes.view(-1), minlength=whole).view(-1, size).cpu()
    counts[:, 0].index_add_(0, classes, torch.from_numpy(own), alpha=-1)
    del codes  # before the sort
    highest = scores[scores > low].cpu().numpy()
    at_least = scores.shape[1] - torch.searchsorted(scores.sort(dim=1).values, genuine)
    above = above_places(counts.numpy(), places)
    return Seen(above, counts.sum(dim=0).numpy(), at_least.cpu().numpy(), highest)


class Counter:
    """What is counted of one gallery, block by block."""

    def __init__(
        self,
        parts: Sequence[Pair],
        grid: Grid,
        brackets: Brackets,
        class_of: Int64[np.ndarray, " n"],
        weights: Weights,
    ) -> None:
        self.parts, self.grid, self.brackets = parts, grid, brackets
        self._class_of, self._weights = class_of, weights
        counts = sum(genuine_counts(part.query, part.gallery) for part in parts)
        self._width = max(1, int(np.max(counts)))
        self._precision = np.empty(len(class_of))
        self._rank = np.empty(len(class_of), np.int64)
        # genuine first, impostor second
        self._above = np.zeros((2, len(grid.starts)), np.int64)
        self._drawn = np.zeros((2, len(weights), len(grid.edges)))
        self._codes = np.zeros(len(grid.marks) + 1, np.int64)
        self._over, self._at_least = np.zeros((2, 2, len(brackets)), np.int64)
        self._inside: list[tuple[list[np.ndarray], list[np.ndarray]]] = [([], []) for _ in brackets]

    def take(
        self,
        rows: Int64[np.ndarray, " b"],
        begins: Int64[np.ndarray, " k"],
        genuine: Sequence[Float32[Tensor, "b _"]],
        seen: Sequence[Seen],
        counted: Int64[np.ndarray, " a"],
        places: Sequence[int],
    ) -> None:
        """Count a block: of queries in the order of their classes, with some of the parts.

        Args:
            rows: which queries.
            begins: the place in it with which each class begins.
            genuine: their genuine scores with each part.
            seen: what was counted of the impostor pairs with each part.
            counted: the codes from which it was counted, ascending.
            places: the gallery's parts.
        """
        stops = np.cumsum([part.shape[1] for part in genuine])
        spans = np.split(np.arange(stops[-1]), stops[:-1])
        columns = np.concatenate([spans[i] for i in places])
        # as wide as the whole gallery's would be, so that sums of a row run alike
        found = torch.cat([genuine[i] for i in places], dim=1).sort(dim=1)
        own, order = (each[:, -self._width :].contiguous().numpy() for each in found)
        at_least = np.sum([seen[i].at_least[:, columns] for i in places], axis=0)
        ahead = np.take_along_axis(at_least, order, axis=1)
        self._precision[rows], self._rank[rows] = _ranking(own, ahead)
        there = own > -np.inf
        present, class_of = own[there], np.repeat(self._class_of[rows], there.sum(axis=1))
        asked = np.searchsorted(counted, self.grid.starts)
        by_class = (
            self._genuine_above(present, class_of, self._class_of[rows[begins]]),
            np.sum([seen[i].above[:, asked] for i in places], axis=0),
        )
        self._codes += np.sum([seen[i].codes for i in places], axis=0)
        first = int(self._class_of[rows[0]])
        drawn = self._weights[:, first : first + len(begins)].astype(np.float64)
        highest = np.concatenate([seen[i].highest for i in places])
        for side, (above, values) in enumerate(zip(by_class, (present, highest), strict=True)):
            self._above[side] += above.sum(axis=0)
            if len(drawn):
                # whole numbers below 2⁵³, so that no order of the sums changes a bit
                self._drawn[side] += drawn @ above[:, : len(self.grid.edges)].astype(np.float64)
            for i, (low, high) in enumerate(self.brackets):
                self._over[side, i] += np.count_nonzero(values > high)
                self._at_least[side, i] += np.count_nonzero(values >= high)
                self._inside[i][side].append(values[(values > low) & (values < high)])

    def _genuine_above(
        self,
        scores: Float32[np.ndarray, " g"],
        class_of: Int64[np.ndarray, " g"],
        classes: Int64[np.ndarray, " k"],
    ) -> Int64[np.ndarray, "k a"]:
        """Return how many genuine scores of each class lie above each place of the grid."""
        size = len(self.grid.marks) + 1
        codes = np.searchsorted(self.grid.marks, scores)
        cuts = np.searchsorted(class_of, classes[1:])
        counts = [np.bincount(some, minlength=size) for some in np.split(codes, cuts)]
        return np.array([above_places(some, self.grid.starts) for some in counts])

    def thresholds(self, fars: tuple[float, ...]) -> list[Threshold | None]:
        """Return the exact threshold at each rate; None where it lies outside its bracket."""
        return [self._threshold(i, far) for i, far in enumerate(fars)]

    def _threshold(self, i: int, far: float) -> Threshold | None:
        pairs, value = int(self._above[1, 0]), float(self.brackets[i][1])
        genuine, impostors = self._over[:, i].tolist()
        # ties at the upper end may be most of the pairs
        at_least = self._at_least[:, i].tolist()
        place = allowed_impostors(far, pairs)
        if place >= at_least[1]:
            inside = Trials(*(np.sort(np.concatenate(some)) for some in self._inside[i]))
            place -= at_least[1]
            if place >= len(inside.impostor):
                return None
            value = float(inside.impostor[-1 - place])
            own, others = inside.accepted(value)
            genuine, impostors = at_least[0] + own, at_least[1] + others
        elif place < impostors:
            return None
        return Threshold(far, value, genuine, impostors, far * pairs >= 1)

    def narrowed(self, fars: tuple[float, ...]) -> Brackets:
        """Return the neighbouring edges, ascending from −inf to +inf, that each threshold is in."""
        edges = self.grid.edges
        above = self._above[1, : len(edges)]
        # the first edge above which no more than allowed lie; the threshold is at most that high
        upper = [int(np.argmax(above <= allowed_impostors(far, int(above[0])))) for far in fars]
        return np.array([[edges[i - 1], edges[i]] for i in upper])

    def counts(self) -> dict[str, Any]:
        """Return what was counted, by the names in `Comparison`."""
        edges = len(self.grid.edges)
        totals = self._above[:, :1]
        over = np.concatenate([totals, self._above[:, edges:], np.zeros_like(totals)], axis=1)
        genuine_bins, impostor_bins = -np.diff(over, axis=1)
        return {
            "average_precision": self._precision,
            "rank": self._rank,
            "grid": self.grid,
            "genuine_above": self._above[0, :edges],
            "impostor_above": self._above[1, :edges],
            "skipped": self.grid.skipped(self._codes),
            "genuine_bins": genuine_bins,
            "impostor_bins": impostor_bins,
            "drawn_above": self._drawn,
        }


def _ranking(
    genuine: Float32[np.ndarray, "b p"], impostor_at_least: Int64[np.ndarray, "b p"]
) -> tuple[Float64[np.ndarray, " b"], Int64[np.ndarray, " b"]]:
    """Return each query's average precision and the rank of its first correct item, from 1.

    AP = (1/P) Σ_s P(s) / N(s) over its P genuine items, where P(s) and N(s) count the genuine and
    all items that score at least s. Items that tie enter together, so their order cannot matter (as
    scikit-learn's `average_precision_score`); impostors that tie with the first correct item come
    before it. A query without a genuine item has NaN and 0.

    Args:
        genuine: scores of genuine pairs, each row ascending, −inf where there is none.
        impostor_at_least: how many impostor pairs score at least that.
    """
    ascending = torch.from_numpy(genuine)
    genuine_at_least = (genuine.shape[1] - torch.searchsorted(ascending, ascending)).numpy()
    present = genuine > -np.inf
    precision = genuine_at_least / (genuine_at_least + impostor_at_least)
    # the best is the last
    rank = np.where(present[:, -1], impostor_at_least[:, -1] + 1, 0)
    with np.errstate(invalid="ignore"):
        average = (precision * present).sum(axis=1) / present.sum(axis=1)
    return average, rank
