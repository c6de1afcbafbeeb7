"""A bank's rows class by class: how far each is from the mean of its class, and which are nearest.

The rows of a few whole classes are gathered once, and normalised, averaged and measured while they
are in a core's cache. This asks for a bank that memory holds. Of a larger one rows are read in
windows from front to end, twice: for the means of all classes, then for the distances to them.
Within a window they come class by class, too: a mean is then in the cache for all its rows of the
window. To normalise columns, a bank is read once more before.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, Shaped
from torch import Tensor
from torch.nn.functional import pad

from mixbct.data.bank import Bounds, check_norms
from mixbct.data.memory import bring_in, fits_in_memory
from mixbct.data.source import Progress
from mixbct.data.threads import started
from mixbct.errors import FeatureError

# rows that are computed with at once: with fewer an operation takes longer to begin than to run,
CHUNK = 1024
# and with more numbers they do not stay in a core's cache
_CACHED = 1 << 19
# rows of a larger bank that are read class by class; smaller windows have too few rows of a class,
# larger ones take longer to gather from
WINDOW = 1 << 19
# rows that a thread is given at once, at most; each is given some several times
_SHARE = 1 << 16
_TURNS = 8

Tick = Callable[[int], None]
"""Called with how many more rows were read."""


@torch.inference_mode()
def measured_rows(
    features: Float[np.ndarray, "n d"],
    labels: Int64[np.ndarray, " n"],
    normalise_columns: bool,
    progress: Progress,
    within: Bounds | None,
) -> "RowsByClass":
    """Return the rows with their distances; see `denoise.mean_distances`."""
    if len(features) != len(labels):
        raise FeatureError(f"{len(features)} features have {len(labels)} labels")
    stored, classes = _as_tensor(features), _as_tensor(_dense(labels))
    resident = not _is_mapped(features) or fits_in_memory(features.nbytes)
    rows = RowsByClass(stored, classes, None if resident else WINDOW, within)
    total = rows.to_read + (len(stored) if resident or normalise_columns else 0)
    done = 0

    def tick(read: int) -> None:
        nonlocal done
        done += read
        progress(done, total)

    scale = None
    if normalise_columns:
        scale = _column_scale(stored, tick)
    elif resident:
        for read in bring_in(features):
            tick(read)
    rows.measure(scale, tick)
    return rows


class RowsByClass:
    """Rows of a bank in the order in which they are read: in windows, by class, then by row.

    Args:
        stored: the rows, as they are.
        classes: of the rows, without gaps.
        window: how many rows are read class by class; none: all.
        within: the least and the largest norm that a row can have.

    Attributes:
        norms: of the rows, in this order.
        distances: from the rows, normalised, to the means of their classes, in this order.
        to_read: how many rows `measure` reads, those that it reads twice counted twice.
    """

    def __init__(
        self,
        stored: Float[Tensor, "n d"],
        classes: Int64[Tensor, " n"],
        window: int | None,
        within: Bounds | None,
    ) -> None:
        count, dim = stored.shape
        self._stored, self._within = stored, within
        self._in_windows = window is not None
        sizes = torch.bincount(classes)
        self._sizes = sizes.float()
        self._starts = pad(sizes.cumsum(0), (1, 0)).numpy()
        # numbers that are half as long take half of the time
        classes = classes.int()
        self._classes, self._at = torch.empty_like(classes), torch.empty(count, dtype=torch.int64)
        for start in range(0, count, window or count):
            part = slice(start, start + (window or count))
            torch.sort(classes[part], stable=True, out=(self._classes[part], self._at[part]))
            self._at[part] += start
        self.norms, self.distances = torch.empty(2, count).unbind()
        self._chunk = max(1, min(CHUNK, _CACHED // dim))
        self._shares, self._large = self._divided()
        parts = [*self._large, *(part for share in self._shares for part in share)]
        self.to_read = sum(map(self._reads, parts))
        self._stopped = False

    def in_bank(self, numbers: Shaped[Tensor, " n"]) -> Shaped[np.ndarray, " n"]:
        """Return a number a row in the order of the bank."""
        return torch.empty_like(numbers).index_copy_(0, self._at, numbers).numpy()

    def measure(self, scale: Float32[Tensor, " d"] | None, tick: Tick) -> None:
        """Fill in norms and distances.

        Args:
            scale: what normalised rows are multiplied by.
            tick: told of rows that were read.

        Raises:
            FeatureError: a norm is NaN, infinite, zero, or not `within`.
        """

        def of_some(share: list[range]) -> int:
            with torch.inference_mode():
                self._measure(share, scale)
            return sum(map(self._reads, share))

        self._measure(self._large, scale, tick)
        with _threads_of_one() as threads:
            try:
                for read in threads.map(of_some, self._shares):
                    tick(read)
            finally:
                self._stopped = True
        self._check_norms()

    def nearest(self, keep: float) -> Bool[Tensor, " n"]:
        """Mark the ⌈keep·n⌉ nearest rows of each class, of equally near ones the earlier."""

        marked = np.empty(len(self._classes), np.bool_)

        def of_some(classes: range) -> None:
            rows = self._rows(classes)
            each = self._classes[rows].long().numpy() - classes.start
            marked[rows] = _nearest(self.distances[rows].numpy(), each, keep)

        whole = [range(share[0].start, share[-1].stop) for share in self._shares]
        with _threads_of_one() as threads:
            list(threads.map(of_some, [*self._large, *whole]))
        return torch.from_numpy(marked)

    def _rows(self, classes: range) -> slice:
        """Return where the rows of some classes are, which is one place if they are all in it."""
        return slice(int(self._starts[classes.start]), int(self._starts[classes.stop]))

    def _reads(self, part: range) -> int:
        """Return how many rows are read of a part: once if they are in the cache for the second."""
        rows = len(self._at[self._rows(part)])
        return rows if rows <= self._chunk else 2 * rows

    def _divided(self) -> tuple[list[list[range]], list[range]]:
        """Return parts of as many classes as fit in a chunk, as shares that a thread does at once.

        Those that are larger than a share are apart; what is in windows is one of them.
        """
        end = len(self._sizes)
        if self._in_windows:
            return [], [range(end)]
        shares: list[list[range]] = [[]]
        large = []
        size = min(_SHARE, math.ceil(len(self._classes) / (_TURNS * torch.get_num_threads())))
        first, room = 0, size
        while first < end:
            most = self._starts[first] + min(self._chunk, size)
            part = range(
                first, max(first + 1, int(np.searchsorted(self._starts, most, "right")) - 1)
            )
            first = part.stop
            count = len(self._at[self._rows(part)])
            if room <= 0 or count > max(size, self._chunk):
                shares.append([])
                room = size
            if count > max(size, self._chunk):
                large.append(part)
            else:
                shares[-1].append(part)
                room -= count
        return [share for share in shares if share], large

    def _check_norms(self) -> None:
        check_norms(self.in_bank(self.norms), within=self._within)

    def _measure(
        self, parts: list[range], scale: Float32[Tensor, " d"] | None, tick: Tick = lambda _: None
    ) -> None:
        """Fill in norms and distances of parts, which no other thread does."""
        dim = self._stored.shape[1]
        stored_buffer = torch.empty(self._chunk, dim, dtype=self._stored.dtype)
        rows_buffer, means_buffer = torch.empty(2, self._chunk, dim).unbind()
        first_column = self._stored[:, 0]

        def chunks(rows: slice) -> Iterator[tuple[slice, Tensor]]:
            """Yield rows, normalised; each chunk overwrites the one before."""
            for start in range(rows.start, rows.stop, self._chunk):
                if self._stopped:
                    raise CancelledError
                chunk = slice(start, min(start + self._chunk, rows.stop))
                found = stored_buffer[: chunk.stop - start]
                # a number of each row first: a core waits for many pages at once, but for few
                # rows; this takes a fifth off the next line
                torch.index_select(first_column, 0, self._at[chunk])
                torch.index_select(self._stored, 0, self._at[chunk], out=found)
                normalised = rows_buffer[: len(found)].copy_(found)
                torch.linalg.vector_norm(normalised, dim=1, out=self.norms[chunk])
                normalised.mul_(self.norms[chunk, None].reciprocal())
                tick(len(found))
                yield chunk, normalised

        for part in parts:
            rows = self._rows(part)
            means = torch.zeros(len(part), dim)
            for chunk, normalised in chunks(rows):
                means.index_add_(0, self._classes[chunk] - part.start, normalised)
            means.div_(self._sizes[part.start : part.stop, None])
            if self._in_windows:
                self._check_norms()
            kept = [(chunk, normalised)] if chunk == rows else chunks(rows)
            for at, again in kept:
                offsets = means_buffer[: len(again)]
                torch.index_select(means, 0, self._classes[at] - part.start, out=offsets)
                offsets.sub_(again)
                if scale is not None:
                    offsets.mul_(scale)
                torch.linalg.vector_norm(offsets, dim=1, out=self.distances[at])


def _column_scale(stored: Float[Tensor, "n d"], tick: Tick) -> Float32[Tensor, " d"]:
    """Return what normalises columns whose rows are normalised."""
    squares = torch.zeros(stored.shape[1], dtype=torch.float64)
    for chunk in torch.split(stored, CHUNK):
        rows = chunk.float()
        normalised = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        squares.add_(normalised.double().square_().sum(0))
        tick(len(rows))
    # a column of zeros stays one
    return torch.where(squares > 0, squares, 1.0).rsqrt().float()


@contextmanager
def _threads_of_one() -> Iterator[ThreadPoolExecutor]:
    """Yield as many threads as torch computes with, each of which computes by itself.

    To hand a chunk of half a millisecond out to all threads operation by operation takes as long
    as to compute it; besides, torch adds rows up in one thread. These end with what they are for:
    beside them an operation in torch's own threads takes four times as long to hand out.
    """
    count = torch.get_num_threads()
    try:
        threads = started("denoise", count, _compute_alone)
    finally:
        # what a thread sets holds for itself, and for those that begin to use torch later
        torch.set_num_threads(count)
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


def _compute_alone() -> None:
    torch.set_num_threads(1)
    # asked for the first time, it takes over what holds for threads that begin to use torch
    torch.get_num_threads()


def _dense(labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Return labels without gaps."""
    labels = np.ascontiguousarray(labels)
    if labels.max() >= 4 * len(labels):
        return np.unique(labels, return_inverse=True)[1].astype(np.int64)
    there = np.bincount(labels) > 0
    return labels if there.all() else np.cumsum(there)[labels] - 1


def _is_mapped(array: np.ndarray | None) -> bool:
    """Return whether an array is a file's, or a view of one that is."""
    while array is not None and not isinstance(array, np.memmap):
        array = array.base if isinstance(array, np.ndarray) else None
    return array is not None


def _as_tensor(array: Shaped[np.ndarray, "..."]) -> Shaped[Tensor, "..."]:
    """Return the array, which may be mapped read-only, as a tensor that must not be written."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _nearest(
    distances: Float32[np.ndarray, " n"], classes: Int64[np.ndarray, " n"], keep: float
) -> Bool[np.ndarray, " n"]:
    """Mark the ⌈keep·n⌉ smallest distances of each class."""
    counts = np.bincount(classes)
    share = Fraction(keep).limit_denominator(1_000_000)  # ⌈0.7·10⌉ must be 7
    kept = np.maximum(1, -(-share.numerator * counts // share.denominator))
    # the bits of floats that are not negative sort as the floats do: to sort one whole number a
    # row takes a twentieth of the time that two keys take
    ranks = (classes << 32) | distances.view(np.int32)
    starts = np.cumsum(counts) - counts
    last_kept = np.sort(ranks)[starts + kept - 1][classes]
    credible: np.ndarray = ranks < last_kept
    # of the rows that are as far as the last one, the earlier ones are kept
    tied = np.flatnonzero(ranks == last_kept)
    tied = tied[np.argsort(classes[tied], kind="stable")]
    ties = np.bincount(classes[tied], minlength=len(counts))
    place = np.arange(len(tied)) - np.repeat(np.cumsum(ties) - ties, ties)
    room = kept - np.bincount(classes[credible], minlength=len(counts))
    credible[tied] = place < room[classes[tied]]
    return credible
