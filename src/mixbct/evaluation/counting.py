"""What is counted of one gallery, a block of sorted scores at a time."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor

from mixbct.evaluation.scores import Pair, PairBlock, genuine_counts
from mixbct.evaluation.thresholds import Brackets, Grid, Threshold, Trials, allowed_impostors

Weights = UInt8[np.ndarray, "r c"] | Float64[np.ndarray, "r c"]
"""How often each query class is drawn in each replicate."""


def sort_rows(scores: Float32[Tensor, "b s"], threads: ThreadPoolExecutor) -> Tensor:
    """Return scores with each row ascending; in main memory they are sorted in place."""
    if scores.device.type != "cpu":
        return scores.sort(dim=1).values
    # NumPy sorts rows of float32 with vector instructions, torch carries indices along
    rows = np.array_split(scores.numpy(), torch.get_num_threads())
    list(threads.map(lambda some: some.sort(axis=1), rows))
    return scores


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
        self.parts, self.grid = parts, grid
        self._brackets, self._class_of, self._weights = brackets, class_of, weights
        counts = sum(genuine_counts(part.query, part.gallery) for part in parts)
        self._width = max(1, int(np.max(counts)))
        self._precision = np.empty(len(class_of))
        self._rank = np.empty(len(class_of), np.int64)
        edges, inner = len(grid.edges), len(grid.bins) - 2
        self._marks = np.concatenate([grid.edges, grid.bins[1:-1], *brackets.T])
        # genuine first, impostor second
        self._above = np.zeros((2, len(self._marks)), np.int64)
        self._at_least = np.zeros((2, len(brackets)), np.int64)
        self._skipped = np.zeros(edges - 1, np.bool_)
        self._drawn = np.zeros((2, len(weights), edges))
        self._at = np.cumsum([edges, inner, len(brackets)])
        self._inside: list[tuple[list[np.ndarray], list[np.ndarray]]] = [([], []) for _ in brackets]

    def take(self, rows: Int64[np.ndarray, " b"], blocks: Sequence[PairBlock]) -> None:
        """Count a block with sorted rows: of queries in the order of their classes."""
        genuine = blocks[0].genuine
        if len(blocks) > 1:
            # as wide as the whole gallery's would be, so that sums of a row run alike
            genuine = torch.cat([block.genuine for block in blocks], dim=1).sort(dim=1).values
            genuine = genuine[:, -self._width :].contiguous()
        impostors = [block.impostor for block in blocks]
        self._precision[rows], self._rank[rows] = _ranking(genuine, impostors)
        marks = torch.from_numpy(self._marks).to(genuine.device)
        first = int(self._class_of[rows[0]])
        # queries come class by class: where each class begins
        begins = np.flatnonzero(np.diff(self._class_of[rows], prepend=first - 1))
        drawn = self._weights[:, first : first + len(begins)].astype(np.float64)
        for side, scores in enumerate(([genuine], impostors)):
            above = torch.zeros(len(rows), len(marks), dtype=torch.int64, device=genuine.device)
            for ascending in scores:
                over = _places(ascending, marks, right=True)
                above += ascending.shape[1] - over
                at = _places(ascending, marks[self._at[2] :], right=False)
                self._at_least[side] += (ascending.shape[1] - at).sum(dim=0).cpu().numpy()
                lows = over[:, self._at[1] : self._at[2]]
                for i, kept in enumerate(self._inside):
                    kept[side].append(_between(ascending, lows[:, i], at[:, i]))
                if side == 1:
                    # the first score above an edge, where there is one, may lie below the next;
                    # of the edges where it did before nothing is asked again
                    left = np.flatnonzero(~self._skipped)
                    last = ascending.shape[1] - 1
                    first_above = ascending.gather(1, over[:, left].clamp_max(last))
                    between = (first_above > marks[left]) & (first_above < marks[left + 1])
                    self._skipped[left] = between.any(dim=0).cpu().numpy()
            by_class = np.add.reduceat(above.cpu().numpy(), begins, axis=0)
            self._above[side] += by_class.sum(axis=0)
            if len(drawn):
                # whole numbers below 2⁵³, so that no order of the sums changes a bit
                self._drawn[side] += drawn @ by_class[:, : self._at[0]].astype(np.float64)

    def thresholds(self, fars: tuple[float, ...]) -> list[Threshold | None]:
        """Return the exact threshold at each rate; None where it lies outside its bracket."""
        return [self._threshold(i, far) for i, far in enumerate(fars)]

    def _threshold(self, i: int, far: float) -> Threshold | None:
        pairs, high = int(self._above[1, 0]), self._at[2] + i
        value, (genuine, impostors) = float(self._marks[high]), self._above[:, high].tolist()
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
        above, edges = self._above[1, : self._at[0]], self.grid.edges
        # the first edge above which no more than allowed lie; the threshold is at most that high
        upper = [int(np.argmax(above <= allowed_impostors(far, int(above[0])))) for far in fars]
        return np.array([[edges[i - 1], edges[i]] for i in upper])

    def counts(self) -> dict[str, Any]:
        """Return what was counted, by the names in `Comparison`."""
        edges, bins = self._at[0], self._at[1]
        per_edge = self._above[:, :edges]
        totals = per_edge[:, :1]
        over = np.concatenate([totals, self._above[:, edges:bins], np.zeros_like(totals)], axis=1)
        genuine_bins, impostor_bins = -np.diff(over, axis=1)
        return {
            "average_precision": self._precision,
            "rank": self._rank,
            "grid": self.grid,
            "genuine_above": per_edge[0],
            "impostor_above": per_edge[1],
            "skipped": self._skipped,
            "genuine_bins": genuine_bins,
            "impostor_bins": impostor_bins,
            "drawn_above": self._drawn,
        }


def _ranking(
    genuine: Float32[Tensor, "b p"], impostors: Sequence[Float32[Tensor, "b _"]]
) -> tuple[Float64[np.ndarray, " b"], Int64[np.ndarray, " b"]]:
    """Return each query's average precision and the rank of its first correct item, from 1.

    AP = (1/P) Σ_s P(s) / N(s) over its P genuine items, where P(s) and N(s) count the genuine and
    all items that score at least s. Items that tie enter together, so their order cannot matter (as
    scikit-learn's `average_precision_score`); impostors that tie with the first correct item come
    before it. A query without a genuine item has NaN and 0.

    Args:
        genuine: scores of genuine pairs, each row ascending, −inf where there is none.
        impostors: of each part, scores of impostor pairs, each row ascending, −inf where there is
            none.
    """
    genuine_at_least = (genuine.shape[1] - torch.searchsorted(genuine, genuine)).cpu()
    impostor_at_least = torch.zeros_like(genuine_at_least)
    for ascending in impostors:
        impostor_at_least += (ascending.shape[1] - torch.searchsorted(ascending, genuine)).cpu()
    present = (genuine > -torch.inf).cpu()
    precision = genuine_at_least.double() / (genuine_at_least + impostor_at_least)
    # the best is the last
    rank = torch.where(present[:, -1], impostor_at_least[:, -1] + 1, 0)
    average = (precision * present).sum(dim=1) / present.sum(dim=1)
    return average.numpy(), rank.numpy()


def _places(
    ascending: Float32[Tensor, "b s"], marks: Float32[Tensor, " m"], right: bool
) -> Int64[Tensor, "b m"]:
    """Return how many scores of each row lie below (`right`: or at) each mark."""
    rows = marks.expand(len(ascending), -1).contiguous()
    return torch.searchsorted(ascending, rows, right=right)


def _between(
    ascending: Float32[Tensor, "b s"], start: Int64[Tensor, " b"], stop: Int64[Tensor, " b"]
) -> Float32[np.ndarray, " k"]:
    """Return the scores of each row from one place to another, all in one array."""
    counts = (stop - start).clamp_min(0)
    ends = counts.cumsum(0)
    rows = torch.repeat_interleave(counts)
    columns = torch.arange(len(rows), device=rows.device) - (ends - counts - start)[rows]
    found: np.ndarray = ascending[rows, columns].cpu().numpy()
    return found
