"""What is counted of the scores, a block of them at a time.

A mark is a score at which pairs can be counted, and the code of a score is how many marks lie
below it. Impostor pairs are counted by code, class by class, and never sorted: what lies above an
edge is a sum of counts. Codes serve every gallery that a block belongs to.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from mixbct.evaluation.scores import PairBlock
from mixbct.evaluation.thresholds import Grid, above_places

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
