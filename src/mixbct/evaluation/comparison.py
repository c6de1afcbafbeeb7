"""Everything that one query model against one gallery is judged by, counted exactly in one walk.

Retrieval figures are kept per query. Pairs are counted at score edges, in all and as often as the
classes of each bootstrap replicate were drawn, so that memory grows with replicates × edges and
not with classes.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from mixbct.errors import DataError
from mixbct.evaluation.counting import see
from mixbct.evaluation.scores import BUDGET, CPU, Embeddings, Pair, genuine_counts, pair_blocks
from mixbct.evaluation.tally import Counter, SeenBlock, Weights
from mixbct.evaluation.thresholds import Grid, Threshold, guess_brackets, score_grids

FARS = (1e-2, 1e-3, 1e-4)
_HIGH = 0.05  # of a block, the share that is kept beside it for a threshold, and copied


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
        genuine_above: [e] genuine pairs that score above each edge.
        impostor_above: [e] impostor pairs.
        skipped: [e − 1] whether impostor scores lie strictly between an edge and the next.
        genuine_bins: [h − 1] genuine pairs in each of the grid's bins.
        impostor_bins: [h − 1] impostor pairs.
        thresholds: one for each false-accept rate asked for.
        weights: [r, c] how often each class was drawn.
        drawn_above: [2, r, e] genuine and impostor pairs above each edge, of the drawn classes.
    """

    classes: Int64[np.ndarray, " c"]
    class_of: Int64[np.ndarray, " n"]
    average_precision: Float64[np.ndarray, " n"]
    rank: Int64[np.ndarray, " n"]
    grid: Grid
    genuine_above: Int64[np.ndarray, " e"]
    impostor_above: Int64[np.ndarray, " e"]
    skipped: Bool[np.ndarray, " s"]
    genuine_bins: Int64[np.ndarray, " k"]
    impostor_bins: Int64[np.ndarray, " k"]
    thresholds: tuple[Threshold, ...]
    weights: Weights
    drawn_above: Float64[np.ndarray, "2 r e"]

    @property
    def mated(self) -> Bool[np.ndarray, " n"]:
        """Return which queries have their class in the gallery."""
        return self.rank > 0

    @property
    def genuine_pairs(self) -> int:
        """Return the number of genuine pairs."""
        return int(self.genuine_above[0])

    @property
    def impostor_pairs(self) -> int:
        """Return the number of impostor pairs."""
        return int(self.impostor_above[0])

    def mean_average_precision(self) -> float:
        """Return mAP over the mated queries."""
        return float(self.average_precision[self.mated].mean())

    def rank_rate(self, k: int) -> float:
        """Return the share of mated queries with a correct item among the first `k`."""
        return float((self.rank[self.mated] <= k).mean())

    def true_accept_rate(self, threshold: Threshold) -> float:
        """Return the share of genuine pairs that one of `thresholds` accepts."""
        return threshold.genuine / self.genuine_pairs


def compare(query: Embeddings, gallery: Embeddings, **how: Any) -> Comparison:
    """Score every query against every item of one gallery and count; `how`: see `compare_all`."""
    return compare_all({"": [Pair(query, gallery)]}, **how)[""]


def compare_all(
    sides: Mapping[str, Sequence[Pair]],
    *,
    fars: tuple[float, ...] = FARS,
    weights: Weights | None = None,
    budget: int = 0,
    device: torch.device = CPU,
) -> dict[str, Comparison]:
    """Score the same queries against several galleries, and count.

    The scores are walked over once (and samples of them before); no more than a block of them is
    held. A part that stands in several galleries is scored and counted once for all of them.

    Args:
        sides: by name, a gallery in parts with the queries that search each, row for row of the
            same items; no query is in a gallery.
        fars: false-accept rates in (0, 1).
        weights: how often each query class is drawn in each bootstrap replicate; None: in none.
        budget: bytes for a block of scores and its temporaries; 0: what suits the device.
        device: where scores are computed and counted.

    Raises:
        FeatureError: the two sides of a part differ in dimension.
        DataError: there is no genuine or no impostor pair at all, or a rate is out of range.
    """
    if not all(0 < far < 1 for far in fars):
        raise DataError(f"false-accept rates must lie between 0 and 1, not {fars}")
    classes, class_of = np.unique(next(iter(sides.values()))[0].query.labels, return_inverse=True)
    weights = np.empty((0, len(classes)), np.uint8) if weights is None else weights
    for parts in sides.values():
        _check_pairs(parts)
    grids = score_grids(list(sides.values()), budget, device)
    counters = {
        name: Counter(parts, grid, guess_brackets(parts, fars, device), class_of, weights)
        for (name, parts), grid in zip(sides.items(), grids, strict=True)
    }
    if not budget and device.type == "cpu" and max(fars) > _HIGH:
        budget = BUDGET // 4
    _walk(list(counters.values()), class_of, budget, device)
    found = {name: counter.thresholds(fars) for name, counter in counters.items()}
    # where a sample deceived, the counts at the edges say where to look
    for name, thresholds in found.items():
        if None in thresholds:
            counter = counters[name]
            brackets, none = counter.narrowed(fars), weights[:0]
            again = Counter(counter.parts, counter.grid, brackets, class_of, none)
            _walk([again], class_of, budget, device)
            found[name] = again.thresholds(fars)
    return {
        name: Comparison(
            classes=classes,
            class_of=class_of.astype(np.int64),
            thresholds=tuple(each for each in found[name] if each is not None),
            weights=weights,
            **counter.counts(),
        )
        for name, counter in counters.items()
    }


def _check_pairs(parts: Sequence[Pair]) -> None:
    queries, items = len(parts[0].query), sum(len(part.gallery) for part in parts)
    genuine = sum(int(genuine_counts(part.query, part.gallery).sum()) for part in parts)
    if genuine == 0 or genuine == queries * items:
        raise DataError(
            f"{queries} queries and {items} gallery items have {genuine} genuine pairs "
            f"of {queries * items}: genuine and impostor pairs are both needed; do the "
            "labels of both sides mean the same classes, and is there more than one?"
        )


def _walk(
    counters: Sequence[Counter],
    class_of: Int64[np.ndarray, " n"],
    budget: int,
    device: torch.device,
) -> None:
    """Show every block of scores to all counters."""
    parts = list({id(part): part for each in counters for part in each.parts}.values())
    place = {id(part): i for i, part in enumerate(parts)}
    grid, low = counters[0].grid, min(float(counter.brackets.min()) for counter in counters)
    codes = np.unique(np.concatenate([counter.grid.starts for counter in counters]))
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for blocks in pair_blocks(parts, None, budget, device):
            rows = blocks[0].rows
            begins = np.flatnonzero(np.diff(class_of[rows], prepend=-1))
            genuine = torch.cat([block.genuine for block in blocks], dim=1)
            seen = [see(block, genuine, begins, grid, codes, low, threads) for block in blocks]
            own = [block.genuine.cpu() for block in blocks]
            for counter in counters:
                places = [place[id(part)] for part in counter.parts]
                counter.take(SeenBlock(rows, begins, own, seen, codes), places)
