"""What is counted of a gallery's scores over all blocks, and what follows from the counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor

from mixbct.evaluation.counting import Seen
from mixbct.evaluation.scores import Pair, genuine_counts
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


@dataclass(frozen=True)
class SeenBlock:
    """What was seen of some queries and all parts.

    Args:
        rows: which queries, class by class.
        begins: the place in it with which each class begins.
        genuine: their genuine scores with each part, −inf where there is none.
        seen: what was counted of the impostor pairs with each part.
        codes: from which it was counted, ascending; every grid's starts are among them.
    """

    rows: Int64[np.ndarray, " b"]
    begins: Int64[np.ndarray, " k"]
    genuine: Sequence[Float32[Tensor, "b _"]]
    seen: Sequence[Seen]
    codes: Int64[np.ndarray, " a"]


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
        self._drawn = torch.zeros(2, len(weights), len(grid.edges), dtype=torch.float64)
        self._codes = np.zeros(len(grid.marks) + 1, np.int64)
        self._over, self._at_least = np.zeros((2, 2, len(brackets)), np.int64)
        self._inside: list[tuple[list[np.ndarray], list[np.ndarray]]] = [([], []) for _ in brackets]

    def take(self, block: SeenBlock, places: Sequence[int]) -> None:
        """Count a block, of whose parts those at `places` are the gallery's."""
        rows, begins = block.rows, block.begins
        stops = np.cumsum([part.shape[1] for part in block.genuine])
        spans = np.split(np.arange(stops[-1]), stops[:-1])
        columns = np.concatenate([spans[i] for i in places])
        # as wide as the whole gallery's would be, so that sums of a row run alike
        found = torch.cat([block.genuine[i] for i in places], dim=1).sort(dim=1)
        own, order = (each[:, -self._width :].contiguous().numpy() for each in found)
        seen = [block.seen[i] for i in places]
        at_least = np.sum([one.at_least[:, columns] for one in seen], axis=0)
        ahead = np.take_along_axis(at_least, order, axis=1)
        self._precision[rows], self._rank[rows] = _ranking(own, ahead)
        self._codes += np.sum([one.codes for one in seen], axis=0)
        classes = self._class_of[rows[begins]]
        there = own > -np.inf
        of_class = np.searchsorted(classes, np.repeat(self._class_of[rows], there.sum(axis=1)))
        asked = np.searchsorted(block.codes, self.grid.starts)
        sides = (
            (self._above_codes(own[there], of_class, len(classes), block.codes), own[there]),
            (
                np.sum([one.above for one in seen], axis=0),
                np.concatenate([one.highest for one in seen]),
            ),
        )
        weights = self._weights[:, classes[0] : classes[-1] + 1]
        drawn = torch.from_numpy(weights.astype(np.float64))
        for side, (counts, values) in enumerate(sides):
            above = counts[:, asked]
            self._above[side] += above.sum(axis=0)
            if len(drawn):
                # whole numbers below 2⁵³, so that no order of the sums changes a bit; not NumPy's
                # product, whose threads wait for more while torch's have the next one to make
                at_edges = above[:, : len(self.grid.edges)].astype(np.float64)
                self._drawn[side].addmm_(drawn, torch.from_numpy(at_edges))
            for i, (low, high) in enumerate(self.brackets):
                self._over[side, i] += np.count_nonzero(values > high)
                self._at_least[side, i] += np.count_nonzero(values >= high)
                self._inside[i][side].append(values[(values > low) & (values < high)])

    def _above_codes(
        self,
        scores: Float32[np.ndarray, " g"],
        of_class: Int64[np.ndarray, " g"],
        classes: int,
        codes: Int64[np.ndarray, " a"],
    ) -> Int64[np.ndarray, "k a"]:
        """Return how many scores of each class have each of ascending codes, or a higher one."""
        place = np.searchsorted(codes, np.searchsorted(self.grid.marks, scores), side="right")
        size = len(codes) + 1
        counts = np.bincount(of_class * size + place, minlength=classes * size)
        return above_places(counts.reshape(classes, size), np.arange(1, size))

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
            "drawn_above": self._drawn.numpy(),
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
