"""Denoising: which old features are credible enough to stand for their class.

Per class the ⌈T·n⌉ features nearest to the class mean are kept, by Euclidean distance after
each feature was normalised (Liang et al., arXiv 2308.06948, sec. 3.3). Labels may come in any
order. The published script also normalises each column over the whole bank first; that is the
switch `normalise_columns`.

The bank is read twice, in chunks: once for the class means, once for the distances to them. So
memory holds a few chunks, the class means, and a few numbers a row. Within windows of the bank
rows are read class by class: a class mean is then in the processor's cache for all its rows of
the window. With a hundred thousand classes in random order this halves the time; the bank itself
is still read from front to end.
"""

import warnings
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from mixbct.data.bank import Bounds, FeatureBank, check_norms
from mixbct.data.source import Progress, unseen
from mixbct.errors import FeatureError, RecipeError
from mixbct.reading import failing_as
from mixbct.schemas.data import DenoiseManifest

# rows: three buffers of them stay in a core's cache; of 4,096 they do not, which takes 1.6 times as
# long
CHUNK = 512
# rows that are read class by class; smaller ones have too few rows of a class, larger ones take
# longer to sort and to gather from
WINDOW = 1 << 19


def credible_rows(
    features: Float[np.ndarray, "n d"],
    labels: Int64[np.ndarray, " n"],
    keep: float = 0.9,
    normalise_columns: bool = False,
    progress: Progress = unseen,
    within: Bounds | None = None,
) -> Bool[np.ndarray, " n"]:
    """Return which rows are among the ⌈keep·n⌉ nearest to their class mean.

    Ties go to the earlier row.

    Args:
        features: see `mean_distances`, as all below but `keep`.
        labels: class of each row.
        keep: T, in (0, 1].
        normalise_columns: whether columns are normalised, too.
        progress: called as the rows are read.
        within: the least and the largest norm that a row can have.

    Raises:
        FeatureError: see `mean_distances`.
        RecipeError: `keep` is out of range.
    """
    if not 0 < keep <= 1:
        raise RecipeError(f"keep must be above 0 and at most 1, found {keep}")
    distances = mean_distances(features, labels, normalise_columns, progress, within)
    return _nearest(distances, _small(labels), keep)


def mean_distances(
    features: Float[np.ndarray, "n d"],
    labels: Int64[np.ndarray, " n"],
    normalise_columns: bool = False,
    progress: Progress = unseen,
    within: Bounds | None = None,
) -> Float32[np.ndarray, " n"]:
    """Return how far each row, normalised, lies from the mean of its class: 0 to 2.

    Args:
        features: float16 or float32, as extracted; may be memory-mapped.
        labels: class of each row, any order, any non-negative numbers.
        normalise_columns: divide each column by its norm over all rows, after the rows were
            normalised.
        progress: called with (rows read, rows to read) over all passes.
        within: the least and the largest norm that a row can have.

    Raises:
        FeatureError: a row is NaN, infinite or zero, or its norm is not `within`.
    """
    labels = _small(labels)
    places = _window_order(labels)
    labels = labels[places]
    rows_at, classes = torch.from_numpy(places), torch.from_numpy(labels)
    counts = torch.bincount(classes)
    stored = _as_tensor(features)
    count, dim = stored.shape
    stored_buffer = torch.empty(CHUNK, dim, dtype=stored.dtype)
    rows_buffer, means_buffer = torch.empty(2, CHUNK, dim).unbind()

    def chunks(done: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield the raw rows as float32, in the order of `places`; each overwrites the last."""
        for start in range(0, count, CHUNK):
            stop = min(start + CHUNK, count)
            found = stored_buffer[: stop - start]
            torch.index_select(stored, 0, rows_at[start:stop], out=found)
            yield slice(start, stop), rows_buffer[: stop - start].copy_(found)
            progress(done + stop, 2 * count)

    norms = torch.empty(count)
    means = torch.zeros(len(counts), dim)
    squares = torch.zeros(dim, dtype=torch.float64)
    for chunk, rows in chunks(done=0):
        torch.linalg.vector_norm(rows, dim=1, out=norms[chunk])
        rows.div_(norms[chunk, None])
        means.index_add_(0, classes[chunk], rows)
        if normalise_columns:
            squares.add_(rows.double().square().sum(0))
    check_norms(torch.empty(count).index_copy_(0, rows_at, norms).numpy(), within=within)
    # a column of zeros stays one
    scale = torch.where(squares > 0, squares, 1.0).rsqrt().float()
    means.div_(counts[:, None])
    distances = torch.empty(count)
    for chunk, rows in chunks(done=count):
        # mean − row/‖row‖
        offsets = means_buffer[: len(rows)]
        torch.index_select(means, 0, classes[chunk], out=offsets)
        offsets.addcmul_(rows, norms[chunk, None].reciprocal(), value=-1)
        if normalise_columns:
            offsets.mul_(scale)
        torch.linalg.vector_norm(offsets, dim=1, out=distances[chunk])
    return torch.empty(count).index_copy_(0, rows_at, distances).numpy()


def _small(labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Return labels without large gaps, which would make large tables."""
    if labels.max() < len(labels):
        return labels
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _window_order(labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Return the rows of one window after the other, each by class, then row."""
    rows = np.arange(len(labels))
    places = (labels << 32) | rows  # one whole number a row: see `_nearest`
    for start in range(0, len(labels), WINDOW):
        places[start : start + WINDOW].sort()
    places &= (1 << 32) - 1
    return places


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


def denoise(
    bank: FeatureBank,
    keep: float = 0.9,
    normalise_columns: bool = False,
    progress: Progress = unseen,
) -> DenoiseManifest:
    """Decide which rows of a bank are credible (see `credible_rows`) and record it in the bank."""
    with failing_as(FeatureError, f"the feature bank {bank.path}", FeatureError):
        credible = credible_rows(
            bank.features, bank.labels(), keep, normalise_columns, progress, bank.manifest.norms
        )
    return bank.save_credible(credible, keep, normalise_columns)
