"""A bank's rows class by class: how far each is from the mean of its class, and which are nearest.

The rows of a few whole classes are gathered once, and normalised, averaged and measured while they
are in a core's cache. This asks for a bank that memory holds. Of a larger one rows are read in
windows from front to end, twice: for the means of all classes, then for the distances to them.
Within a window they come class by class, too: a mean is then in the cache for all its rows of the
window.
"""

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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

# rows that are computed with at once: with fewer an operation takes longer to begin than to run,
# more do not stay in a core's cache
CHUNK = 1024
# rows of a larger bank that are read class by class; smaller windows have too few rows of a class,
# larger ones take longer to gather from
WINDOW = 1 << 19
# rows, or a few more, that a thread is given at once
_SHARE = 1 << 16


def measured_rows(
    features: Float[np.ndarray, "n d"],
    labels: Int64[np.ndarray, " n"],
    normalise_columns: bool,
    progress: Progress,
    within: Bounds | None,
) -> "RowsByClass":
    """Return the rows with their distances; see `denoise.mean_distances`."""
    # what is no file's is in memory
    resident = not isinstance(features, np.memmap) or fits_in_memory(features.nbytes)
    stored, classes = _as_tensor(features), torch.from_numpy(_small(labels))
    count = len(classes)
    passes = 2 if resident or not normalise_columns else 3
    done = 0

    def tick(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, passes * count)

    scale = None
    if normalise_columns:
        scale = _column_scale(stored, tick)
    elif resident:
        for rows in bring_in(features):
            tick(rows)
    by_class = RowsByClass(stored, classes, scale, None if resident else WINDOW)
    by_class.measure(tick)
    check_norms(by_class.in_bank(by_class.norms), within=within)
    return by_class


class RowsByClass:
    """Rows of a bank in the order in which they are read: in windows, by class, then by row.

    Args:
        stored: the rows, as they are.
        classes: of the rows, without large gaps.
        scale: what normalised rows are multiplied by.
        window: how many rows are read class by class; none: all.

    Attributes:
        norms: of the rows, in this order.
        distances: from the rows, normalised, to the means of their classes, in this order.
    """

    def __init__(
        self,
        stored: Float[Tensor, "n d"],
        classes: Int64[Tensor, " n"],
        scale: Float32[Tensor, " d"] | None,
        window: int | None,
    ) -> None:
        self._stored = stored
        self._scale = scale
        sizes = torch.bincount(classes)
        self._sizes = sizes.float()
        self._starts = pad(sizes.cumsum(0), (1, 0)).numpy()
        # numbers that are half as long take half of the time
        classes = classes.int()
        self._classes, self._at = (
            torch.empty_like(classes),
            torch.empty(len(classes), dtype=torch.int64),
        )
        for start in range(0, len(classes), window or len(classes)):
            part = slice(start, start + (window or len(classes)))
            sorted_part = self._classes[part], self._at[part]
            torch.sort(classes[part], stable=True, out=sorted_part)
            self._at[part] += start
        self._in_windows = window is not None
        self.norms, self.distances = torch.empty(2, len(classes)).unbind()

    def in_bank(self, numbers: Shaped[Tensor, " n"]) -> Shaped[np.ndarray, " n"]:
        """Return a number a row in the order of the bank."""
        return torch.empty_like(numbers).index_copy_(0, self._at, numbers).numpy()

    def measure(self, tick: Callable[[int], None]) -> None:
        """Fill in norms and distances; `tick` is called with how many more rows were read."""
        if self._in_windows:
            [everything] = self._shares()
            self._measure(everything, tick)
        else:
            with _threads_of_one() as threads:
                for read in threads.map(self._measure, self._shares()):
                    tick(read)

    def nearest(self, keep: float) -> Bool[Tensor, " n"]:
        """Mark the ⌈keep·n⌉ nearest rows of each class, of equally near ones the earlier."""

        def of_some(share: list[range]) -> Bool[Tensor, " m"]:
            rows = self._rows(range(share[0].start, share[-1].stop))
            classes = (self._classes[rows] - share[0].start).long()
            return torch.from_numpy(_nearest(self.distances[rows].numpy(), classes.numpy(), keep))

        with _threads_of_one() as threads:
            return torch.cat(list(threads.map(of_some, self._shares())))

    def _rows(self, classes: range) -> slice:
        """Return where the rows of some classes are, which is one place if they are all in it."""
        return slice(int(self._starts[classes.start]), int(self._starts[classes.stop]))

    def _shares(self) -> list[list[range]]:
        """Return what one thread does at a time: parts, of as many classes as fit in a chunk."""
        end = len(self._sizes)
        if self._in_windows:
            return [[range(end)]]
        shares: list[list[range]] = []
        first, room = 0, 0
        while first < end:
            fit = int(np.searchsorted(self._starts, self._starts[first] + CHUNK, "right")) - 1
            part = range(first, max(first + 1, fit))
            first = part.stop
            rows = self._rows(part)
            if room <= 0:
                shares.append([])
                room = _SHARE
            if rows.start < rows.stop:
                shares[-1].append(part)
                room -= rows.stop - rows.start
        return [share for share in shares if share]

    def _measure(self, share: list[range], tick: Callable[[int], None] = lambda _: None) -> int:
        """Measure the rows of some classes, which no other thread does, and return their number."""
        dim = self._stored.shape[1]
        stored_buffer = torch.empty(CHUNK, dim, dtype=self._stored.dtype)
        rows_buffer, means_buffer = torch.empty(2, CHUNK, dim).unbind()
        first_column = self._stored[:, 0]

        def chunks(rows: slice) -> Iterator[tuple[slice, Tensor]]:
            """Yield rows, normalised; each chunk overwrites the one before."""
            for start in range(rows.start, rows.stop, CHUNK):
                chunk = slice(start, min(start + CHUNK, rows.stop))
                found = stored_buffer[: chunk.stop - start]
                # a number of each row first: a core waits for many pages at once, but for few
                # rows; this takes a fifth off the next line
                torch.index_select(first_column, 0, self._at[chunk])
                torch.index_select(self._stored, 0, self._at[chunk], out=found)
                normalised = rows_buffer[: len(found)].copy_(found)
                torch.linalg.vector_norm(normalised, dim=1, out=self.norms[chunk])
                yield chunk, normalised.mul_(self.norms[chunk, None].reciprocal())
                tick(len(found))

        for part in share:
            rows = self._rows(part)
            means = torch.zeros(len(part), dim)
            for chunk, normalised in chunks(rows):
                means.index_add_(0, self._classes[chunk] - part.start, normalised)
            means.div_(self._sizes[part.start : part.stop, None])
            # rows of one chunk are at hand
            again = chunks(rows) if rows.stop - rows.start > CHUNK else [(chunk, normalised)]
            for chunk, normalised in again:
                offsets = means_buffer[: len(normalised)]
                torch.index_select(means, 0, self._classes[chunk] - part.start, out=offsets)
                offsets.sub_(normalised)
                if self._scale is not None:
                    offsets.mul_(self._scale)
                torch.linalg.vector_norm(offsets, dim=1, out=self.distances[chunk])
        return sum(len(self.norms[self._rows(part)]) for part in share)


def _column_scale(
    stored: Float[Tensor, "n d"], tick: Callable[[int], None]
) -> Float32[Tensor, " d"]:
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
    as to compute it; besides, torch adds rows up in one thread.
    """
    count = torch.get_num_threads()
    threads = ThreadPoolExecutor(count, "denoise", torch.set_num_threads, (1,))
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)
        torch.set_num_threads(count)  # what a thread sets holds for threads that start later, too


def _small(labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Return labels without large gaps, which would make large tables."""
    if labels.max() < len(labels):
        return labels
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _as_tensor(features: Float[np.ndarray, "n d"]) -> Float[Tensor, "n d"]:
    """Return the array, which may be mapped read-only, as a tensor that must not be written."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(features)


def _nearest(
    distances: Float32[np.ndarray, " n"], classes: Int64[np.ndarray, " n"], keep: float
) -> Bool[np.ndarray, " n"]:
    """Mark the ⌈keep·n⌉ smallest distances of each class."""
    counts = np.bincount(classes)
    share = Fraction(keep).limit_denominator(1_000_000)  # ⌈0.7·10⌉ must be 7
    kept = -(-share.numerator * counts // share.denominator)
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
