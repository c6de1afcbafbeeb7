"""A check-up of stored vectors: what they are like, and whether two models are among them.

All rows are read once, in blocks, in the order in which they are stored; what compares rows with
each other looks at 16,384 of them, spread evenly.

    mean cosine      of two different rows: (‖Σ u_i‖² − n) / (n² − n) for unit rows u_i
    effective rank   exp(−Σ p_i ln p_i), p the covariance's eigenvalues over their sum
                     (Roy and Vetterli, EUSIPCO 2007)
    two models       their rows lie in unrelated subspaces. In the order of storage: the leading
                     directions of rows before a cut hold less of the variance after it. In any
                     order: the norms, or the projections on the first direction, fall into two
                     groups (Ashman's D = √2·|μ₁ − μ₂|/√(σ₁² + σ₂²) of the best cut; Ashman, Bird
                     and Zepf 1994)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import faiss
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from mixbct.schemas.checkup import LabelCounts, Mixture, Norms, Space

SAMPLE = 16_384
NEAR = 0.999
_APART = 5.0  # Ashman's D: 2 is a visible gap; classes make such gaps, two models wide ones
_SMALLER = 0.02  # the smaller of two groups has at least this share
_PARTS, _HELD = 8, 0.8
_NAMED = 10

Block = tuple[Sequence[str], Float32[np.ndarray, "n d"]]
"""Keys, and vectors as they are stored."""


@dataclass
class Readings:
    """What one pass over all rows leaves.

    Attributes:
        rows: read.
        dim: of the vectors; 0 before the first block.
        not_finite: rows with NaN or infinity.
        zero: rows of zeros.
        faulty: keys of the first of these.
        fine: which rows have a direction.
        norms: of all rows; NaN where there is none.
        total: sum of the unit rows.
        products: sum of their outer products.
        sample: unit rows, spread evenly, by `sampled`, their numbers.
        exact_duplicates: rows whose vector an earlier one has, by a 64-bit hash of its bytes.
    """

    dim: int = 0
    rows: int = 0
    not_finite: int = 0
    zero: int = 0
    faulty: list[str] = field(default_factory=list)
    fine: Bool[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0, bool))
    norms: Float64[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0))
    total: Float64[np.ndarray, " d"] = field(default_factory=lambda: np.zeros(0))
    products: Float64[np.ndarray, "d d"] = field(default_factory=lambda: np.zeros((0, 0)))
    sample: Float32[np.ndarray, "k d"] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    sampled: Int64[np.ndarray, " k"] = field(default_factory=lambda: np.zeros(0, np.int64))
    exact_duplicates: int = 0


def read(blocks: Iterable[Block], rows: int) -> Readings:
    """Read all rows once.

    Args:
        blocks: keys and raw vectors [n, d], all of one dimension.
        rows: how many there will be, at least, for an even sample.
    """
    found, hashes, norms, fine, sample, numbers = Readings(), [], [], [], [], []
    step = max(1, -(-rows // SAMPLE))
    multiplier: np.ndarray | None = None
    for keys, vectors in blocks:
        if multiplier is None:
            found.dim = vectors.shape[1]
            found.total, found.products = np.zeros(found.dim), np.zeros((found.dim, found.dim))
            odd = np.random.default_rng(0).integers(2**63, size=found.dim, dtype=np.uint64)
            multiplier = odd * np.uint64(2) + np.uint64(1)
        bits = np.ascontiguousarray(vectors, np.float32).view(np.uint32).astype(np.uint64)
        hashes.append(((bits ^ (bits << np.uint64(29))) * multiplier).sum(axis=1, dtype=np.uint64))
        exact = vectors.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            lengths = np.sqrt(np.einsum("nd,nd->n", exact, exact))
        finite = np.isfinite(vectors).all(axis=1)
        good = finite & (lengths > 0)
        found.not_finite += int((~finite).sum())
        found.zero += int((finite & ~good).sum())
        found.faulty += [keys[int(i)] for i in np.flatnonzero(~good)][: _NAMED - len(found.faulty)]
        unit = exact[good] / lengths[good, None]
        found.total += unit.sum(axis=0)
        found.products += unit.T @ unit
        at = found.rows + np.flatnonzero(good)
        taken = at % step == 0
        sample.append(unit[taken].astype(np.float32))
        numbers.append(at[taken])
        norms.append(np.where(good, lengths, np.nan))
        fine.append(good)
        found.rows += len(vectors)
    if found.rows:
        found.sample, found.sampled = np.concatenate(sample), np.concatenate(numbers)
        found.norms, found.fine = np.concatenate(norms), np.concatenate(fine)
        found.exact_duplicates = found.rows - len(np.unique(np.concatenate(hashes)))
    return found


def norms_of(found: Readings) -> Norms | None:
    """Return the range of the norms; None where no row has a direction."""
    there = found.norms[found.fine]
    if not len(there):
        return None
    least, median, largest = np.quantile(there, (0, 0.5, 1)).tolist()
    return Norms(least=least, median=median, largest=largest)


def space_of(found: Readings, near: Int64[np.ndarray, " k"]) -> Space | None:
    """Return how the rows lie; None where fewer than two have a direction."""
    n = int(found.fine.sum())
    if n < 2:
        return None
    values = np.linalg.eigvalsh(_covariance(found)).clip(min=0)
    shares = values / values.sum() if values.sum() > 1e-12 else np.ones(1)
    shares = shares[shares > 0]
    return Space(
        mean_cosine=float((found.total @ found.total - n) / (n * (n - 1))),
        effective_rank=float(np.exp(-(shares * np.log(shares)).sum())),
        near_duplicates=float((near >= 0).mean()),
        looked_at=len(near),
    )


def _covariance(found: Readings) -> Float64[np.ndarray, "d d"]:
    n = int(found.fine.sum())
    mean = found.total / n
    covariance: Float64[np.ndarray, "d d"] = found.products / n - np.outer(mean, mean)
    return covariance


def nearest(found: Readings) -> Int64[np.ndarray, " k"]:
    """Return for each sampled row another one at a cosine of `NEAR` or more, or −1."""
    sample = found.sample
    if len(sample) < 2:
        return np.full(len(sample), -1)
    cosines, ids = faiss.knn(sample, sample, 2, metric=faiss.METRIC_INNER_PRODUCT)
    own = ids[:, 0] == np.arange(len(sample))
    other, cosine = np.where(own, ids[:, 1], ids[:, 0]), np.where(own, cosines[:, 1], cosines[:, 0])
    return np.where(cosine >= NEAR, other, -1)


def labels_of(
    labels: list[str | None], found: Readings, near: Int64[np.ndarray, " k"]
) -> LabelCounts | None:
    """Return how the items are spread over their labels; None where none has one."""
    known = [label for label in labels if label is not None]
    if not known:
        return None
    counts = np.unique(np.array(known, dtype=object).astype(str), return_counts=True)[1]
    own = [labels[i] for i in found.sampled]
    across = sum(
        1
        for i, j in enumerate(near)
        if j >= 0 and own[i] is not None and own[j] is not None and own[i] != own[j]
    )
    return LabelCounts(
        labels=len(counts),
        unlabelled=len(labels) - len(known),
        of_one=int((counts == 1).sum()),
        median=float(np.median(counts)),
        largest=int(counts.max()),
        near_duplicates_across=across,
    )


def mixture_of(found: Readings) -> tuple[Mixture, ...]:
    """Return the signs that rows of two models stand beside each other; most often none."""
    signs = []
    if len(found.sample) < 64:
        return ()
    norms = np.log(found.norms[found.sampled])
    if norms.std() > 0.05 and (cut := two_groups(norms)):
        low, high = np.exp([cut.low, cut.high])
        signs.append(
            Mixture(
                sign="norms",
                says=f"the norms fall into two groups, {1 - cut.share:.0%} around {low:.3g} and "
                f"{cut.share:.0%} around {high:.3g}",
            )
        )
    held, at = _held_over_time(found)
    if held < _HELD:
        signs.append(
            Mixture(
                sign="order",
                says=f"from about row {at:,} on the vectors lie in other directions than before: "
                f"those of one side hold {held:.0%} of the variance on the other that they hold on "
                "their own",
            )
        )
    first = np.linalg.eigh(_covariance(found))[1][:, -1]
    if cut := two_groups(found.sample.astype(np.float64) @ first):
        signs.append(
            Mixture(
                sign="halves",
                says=f"along their first direction the vectors fall into two groups of "
                f"{1 - cut.share:.0%} and {cut.share:.0%} with a wide gap between",
            )
        )
    return tuple(signs)


@dataclass(frozen=True)
class Cut:
    """Two groups of numbers: their means, and the share of the upper one."""

    low: float
    high: float
    share: float


def two_groups(values: Float64[np.ndarray, " n"]) -> Cut | None:
    """Return the cut of least variance within both groups, where they are far apart."""
    ordered = np.sort(values)
    n, k = len(ordered), np.arange(1, len(ordered))
    sums, squares = np.cumsum(ordered)[:-1], np.cumsum(ordered**2)[:-1]
    rest, rest_squares = ordered.sum() - sums, (ordered**2).sum() - squares
    within = squares - sums**2 / k + rest_squares - rest**2 / (n - k)
    best = int(within.argmin()) + 1
    low, high = ordered[:best], ordered[best:]
    share = len(high) / n
    spread = np.sqrt(low.var() + high.var())
    apart = np.sqrt(2) * (high.mean() - low.mean()) > _APART * spread
    if not apart or min(share, 1 - share) < _SMALLER:
        return None
    return Cut(float(low.mean()), float(high.mean()), share)


def _held_over_time(found: Readings) -> tuple[float, int]:
    """Return what directions hold across the best cut in time, over what on its sides; and where.

    The rows are cut into eighths, in the order in which they are stored. What the leading
    directions of one hold of another's variance is compared within the sides of a cut and across
    it, so that rows sorted by their labels, of which each eighth has others, are no sign.
    """
    parts = np.array_split(found.sample.astype(np.float64), _PARTS)
    centred = [part - part.mean(axis=0) for part in parts]
    count = max(1, min(len(parts[-1]), found.dim) // 4)
    leading = [np.linalg.svd(part, full_matrices=False)[2][:count] for part in centred]
    held = np.array([[np.square(part @ d.T).sum() for part in centred] for d in leading])
    # rows that are all alike lie in no direction: there is nothing to be told apart
    held = (held + 1e-9) / (held.diagonal() + 1e-9)
    least = (1.0, 0)
    for cut in range(2, _PARTS - 1):
        before = np.arange(_PARTS) < cut
        apart = before[:, None] != before
        inside = ~apart & ~np.eye(_PARTS, dtype=bool)
        least = min(least, (float(held[apart].mean() / held[inside].mean()), cut))
    return least[0], int(found.sampled[len(found.sampled) * least[1] // _PARTS])
