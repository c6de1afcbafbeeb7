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
from dataclasses import dataclass
from typing import NamedTuple

import faiss
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from mixbct.schemas.checkup import LabelCounts, Mixture, Norms, Sign, Space

SAMPLE = 16_384
NEAR = 0.999
_APART = 5.0  # Ashman's D: 2 is a visible gap; classes make such gaps, two models wide ones
_SMALLER = 0.02  # the smaller of two groups has at least this share
_PARTS, _HELD = 8, 0.8
_NAMED = 10

Block = tuple[Sequence[str], Float32[np.ndarray, "n d"]]
"""Keys, and vectors as they are stored."""


@dataclass(frozen=True)
class Readings:
    """What one pass over all rows leaves.

    Attributes:
        norms: of all rows.
        faulty: keys of the first rows without a direction.
        total: sum of the unit rows.
        products: sum of their outer products.
        sample: unit rows, spread evenly, by `sampled`, their numbers.
        exact_duplicates: rows whose vector an earlier one has, by a 64-bit hash of its bytes.
    """

    norms: Float64[np.ndarray, " n"]
    faulty: tuple[str, ...]
    total: Float64[np.ndarray, " d"]
    products: Float64[np.ndarray, "d d"]
    sample: Float32[np.ndarray, "k d"]
    sampled: Int64[np.ndarray, " k"]
    exact_duplicates: int

    @property
    def fine(self) -> Bool[np.ndarray, " n"]:
        """Which rows have a direction."""
        return np.asarray(np.isfinite(self.norms) & (self.norms > 0))

    @property
    def covariance(self) -> Float64[np.ndarray, "d d"]:
        """Of the unit rows."""
        n = self.fine.sum()
        mean = self.total / n
        return np.asarray(self.products / n - np.outer(mean, mean))


def read(blocks: Iterable[Block], rows: int, dim: int) -> Readings:
    """Read all rows once.

    Args:
        blocks: keys and raw vectors [n, dim].
        rows: how many there will be, at least, for an even sample.
        dim: of the vectors.
    """
    step, count = max(1, -(-rows // SAMPLE)), 0
    total, products = np.zeros(dim), np.zeros((dim, dim))
    hashes, norms, faulty = set[int](), [np.zeros(0)], list[str]()
    sample, sampled = [np.zeros((0, dim), np.float32)], [np.zeros(0, np.int64)]
    for keys, vectors in blocks:
        hashes.update(hash(row.tobytes()) for row in vectors)
        exact = vectors.astype(np.float64)
        with np.errstate(invalid="ignore"):
            norms.append(np.sqrt(np.einsum("nd,nd->n", exact, exact)))
        good = np.isfinite(norms[-1]) & (norms[-1] > 0)
        faulty += [keys[i] for i in np.flatnonzero(~good)[: _NAMED - len(faulty)].tolist()]
        unit = exact[good] / norms[-1][good, None]
        total += unit.sum(axis=0)
        products += unit.T @ unit
        at = count + np.flatnonzero(good)
        sample.append(unit[at % step == 0].astype(np.float32))
        sampled.append(at[at % step == 0])
        count += len(vectors)
    return Readings(
        norms=np.concatenate(norms),
        faulty=tuple(faulty),
        total=total,
        products=products,
        sample=np.concatenate(sample),
        sampled=np.concatenate(sampled),
        exact_duplicates=count - len(hashes),
    )


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
    values = np.linalg.eigvalsh(found.covariance).clip(min=0)
    shares = values / values.sum() if values.sum() > 1e-12 else np.ones(1)
    shares = shares[shares > 0]
    return Space(
        mean_cosine=float((found.total @ found.total - n) / (n * (n - 1))),
        effective_rank=float(np.exp(-(shares * np.log(shares)).sum())),
        near_duplicates=float((near >= 0).mean()),
        looked_at=len(near),
    )


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
    twins = [(own[i], own[j]) for i, j in enumerate(near) if j >= 0]
    return LabelCounts(
        labels=len(counts),
        unlabelled=len(labels) - len(known),
        of_one=int((counts == 1).sum()),
        median=float(np.median(counts)),
        largest=int(counts.max()),
        near_duplicates_across=sum(None not in both and both[0] != both[1] for both in twins),
    )


def mixture_of(found: Readings) -> tuple[Mixture, ...]:
    """Return the signs that rows of two models stand beside each other; most often none."""
    if len(found.sample) < 64:
        return ()
    signs: dict[Sign, str] = {}
    norms = np.log(found.norms[found.sampled])
    if norms.std() > 0.05 and (cut := two_groups(norms)):
        low, high = np.exp([cut.low, cut.high])
        signs["norms"] = (
            f"the norms fall into two groups, {1 - cut.share:.0%} around {low:.3g} and "
            f"{cut.share:.0%} around {high:.3g}"
        )
    held, at = _held_over_time(found)
    if held < _HELD:
        signs["order"] = (
            f"from about row {at:,} on the vectors lie in other directions than before: those of "
            f"one side hold {held:.0%} of the variance on the other that they hold on their own"
        )
    first = np.linalg.eigh(found.covariance)[1][:, -1]
    if cut := two_groups(found.sample.astype(np.float64) @ first):
        signs["halves"] = (
            f"along their first direction the vectors fall into two groups of {1 - cut.share:.0%} "
            f"and {cut.share:.0%} with a wide gap between"
        )
    return tuple(Mixture(sign=sign, says=says) for sign, says in signs.items())


class Cut(NamedTuple):
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
    count = max(1, min(len(parts[-1]), found.sample.shape[1]) // 4)
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
