"""Everything that one query model against one gallery is judged by, counted exactly.

Retrieval figures are kept per query, pair counts per query class, so that a bootstrap over
classes needs no second look at the scores.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from mixbct.errors import DataError
from mixbct.evaluation.grid import Grid, score_grid
from mixbct.evaluation.scores import BUDGET, Embeddings, genuine_counts, pair_blocks
from mixbct.evaluation.thresholds import Threshold, exact_thresholds

FARS = (1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class Comparison:
    """One query model against one gallery.

    A query whose class is not in the gallery counts for impostor pairs only.

    Args:
        classes: [c] labels of the query classes, ascending.
        class_of: [n] index into `classes` of each query.
        average_precision: [n], NaN where the class is not in the gallery.
        rank: [n] of the first correct item, from 1; 0 where the class is not in the gallery.
        grid: the score edges of the counts below.
        genuine_above: [c, e] genuine pairs of each class that score above each edge.
        impostor_above: [c, e] impostor pairs.
        skipped: [e − 1] whether impostor scores lie strictly between an edge and the next.
        genuine_bins: [h − 1] genuine pairs in each of the grid's bins.
        impostor_bins: [h − 1] impostor pairs.
        thresholds: one for each false-accept rate asked for.
    """

    classes: Int64[np.ndarray, " c"]
    class_of: Int64[np.ndarray, " n"]
    average_precision: Float64[np.ndarray, " n"]
    rank: Int64[np.ndarray, " n"]
    grid: Grid
    genuine_above: Int64[np.ndarray, "c e"]
    impostor_above: Int64[np.ndarray, "c e"]
    skipped: Bool[np.ndarray, " s"]
    genuine_bins: Int64[np.ndarray, " k"]
    impostor_bins: Int64[np.ndarray, " k"]
    thresholds: tuple[Threshold, ...]

    @property
    def mated(self) -> Bool[np.ndarray, " n"]:
        """Return which queries have their class in the gallery."""
        return self.rank > 0

    @property
    def genuine_pairs(self) -> Int64[np.ndarray, " c"]:
        """Return the number of genuine pairs of each query class."""
        return self.genuine_above[:, 0]

    @property
    def impostor_pairs(self) -> Int64[np.ndarray, " c"]:
        """Return the number of impostor pairs of each query class."""
        return self.impostor_above[:, 0]

    def mean_average_precision(self) -> float:
        """Return mAP over the mated queries."""
        return float(self.average_precision[self.mated].mean())

    def rank_rate(self, k: int) -> float:
        """Return the share of mated queries with a correct item among the first `k`."""
        return float((self.rank[self.mated] <= k).mean())

    def true_accept_rate(self, threshold: Threshold) -> float:
        """Return the share of genuine pairs that one of `thresholds` accepts."""
        return threshold.genuine / int(self.genuine_pairs.sum())


def compare(
    query: Embeddings,
    gallery: Embeddings,
    *,
    fars: tuple[float, ...] = FARS,
    budget: int = BUDGET,
) -> Comparison:
    """Score every query against every gallery item and count.

    The scores are walked over twice (and a sample of them once); no more than a block of them
    is held. Rows are sorted once, then every count is a binary search.

    Args:
        query: n unit vectors.
        gallery: g unit vectors, none of them a query.
        fars: false-accept rates in (0, 1).
        budget: bytes for a block of scores and its temporaries.

    Raises:
        FeatureError: the two sides differ in dimension.
        DataError: there is no genuine or no impostor pair at all, or a rate is out of range.
    """
    if not all(0 < far < 1 for far in fars):
        raise DataError(f"false-accept rates must lie between 0 and 1, not {fars}")
    genuine = int(genuine_counts(query, gallery).sum())
    if genuine == 0 or genuine == len(query) * len(gallery):
        raise DataError(
            f"{len(query)} queries and {len(gallery)} gallery items have {genuine} genuine pairs "
            f"of {len(query) * len(gallery)}: genuine and impostor pairs are both needed; do the "
            "labels of both sides mean the same classes, and is there more than one?"
        )
    grid = score_grid(query, gallery, budget)
    classes, class_of = np.unique(query.labels, return_inverse=True)
    precisions, ranks = [], []
    # genuine first, impostor second
    above = torch.zeros(2, len(classes), len(grid.edges), dtype=torch.int64)
    over = torch.zeros(2, len(grid.bins) - 2, dtype=torch.int64)
    from_edge = torch.zeros(len(grid.edges), dtype=torch.int64)
    edges, inner = torch.from_numpy(grid.edges), torch.from_numpy(grid.bins[1:-1])
    for block in pair_blocks(query, gallery, budget):
        # NumPy sorts rows of float32 with vector instructions, torch carries indices along
        block.impostor.numpy().sort(axis=1)
        block.genuine.numpy().sort(axis=1)
        precision, rank = _ranking(block.genuine, block.impostor)
        precisions.append(precision)
        ranks.append(rank)
        rows = torch.from_numpy(class_of[block.rows])
        for side, scores in enumerate((block.genuine, block.impostor)):
            above[side].index_add_(0, rows, _count_above(scores, edges))
            over[side] += _count_above(scores, inner).sum(dim=0)
        from_edge += _count_above(block.impostor, edges, or_at=True).sum(dim=0)
    per_edge = above.sum(dim=1)
    totals = per_edge[:, :1]
    bins = -torch.diff(over, dim=1, prepend=totals, append=torch.zeros_like(totals))
    return Comparison(
        classes=classes,
        class_of=class_of.astype(np.int64),
        average_precision=torch.cat(precisions).numpy(),
        rank=torch.cat(ranks).numpy(),
        grid=grid,
        genuine_above=above[0].numpy(),
        impostor_above=above[1].numpy(),
        skipped=(per_edge[1, :-1] > from_edge[1:]).numpy(),
        genuine_bins=bins[0].numpy(),
        impostor_bins=bins[1].numpy(),
        thresholds=exact_thresholds(query, gallery, fars, grid.edges, per_edge.numpy(), budget),
    )


def _ranking(
    genuine: Float32[Tensor, "b p"], impostor: Float32[Tensor, "b g"]
) -> tuple[Float64[Tensor, " b"], Int64[Tensor, " b"]]:
    """Return each query's average precision and the rank of its first correct item, from 1.

    AP = (1/P) Σ_s P(s) / N(s) over its P genuine items, where P(s) and N(s) count the genuine and
    all items that score at least s. Items that tie enter together, so their order cannot matter (as
    scikit-learn's `average_precision_score`); impostors that tie with the first correct item come
    before it. A query without a genuine item has NaN and 0.

    Args:
        genuine: scores of genuine pairs, each row ascending, −inf where there is none.
        impostor: scores of impostor pairs, each row ascending, −inf where there is none.
    """
    present = genuine > -torch.inf
    genuine_at_least = genuine.shape[1] - torch.searchsorted(genuine, genuine)
    impostor_at_least = impostor.shape[1] - torch.searchsorted(impostor, genuine)
    precision = genuine_at_least.double() / (genuine_at_least + impostor_at_least)
    # the best is the last
    rank = torch.where(present[:, -1], impostor_at_least[:, -1] + 1, 0)
    return (precision * present).sum(dim=1) / present.sum(dim=1), rank


def _count_above(
    ascending: Float32[Tensor, "b s"], edges: Float32[Tensor, " e"], or_at: bool = False
) -> Int64[Tensor, "b e"]:
    """Return how many scores of each row lie above (`or_at`: or at) each edge."""
    rows = edges.expand(len(ascending), -1).contiguous()
    return ascending.shape[1] - torch.searchsorted(ascending, rows, right=not or_at)
