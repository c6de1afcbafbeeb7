"""Which bridge is best between two spaces: tried on classes that its fit did not see.

Whether a space is better compared whitened, mapped or as it lies depends on the space, so it is
measured: training classes are cut into folds, each kind is fitted on the others, and new queries
search old rows of the fold. Where there are no classes, two items count as one that are each
other's nearest by the new model: that a new vector finds the old one of its own item is too easy to
tell kinds apart.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from statistics import fmean

import faiss
import numpy as np
from jaxtyping import Float32, Int64

from mixbct.adapters import ADAPTERS, SHRUNK
from mixbct.adapters.moments import Labels, Maps, Pairs
from mixbct.distributed import row_rng
from mixbct.errors import FeatureError
from mixbct.evaluation.comparison import compare
from mixbct.evaluation.scores import Embeddings
from mixbct.features.bridged import both_queries, through
from mixbct.schemas.bridge import IDENTITY, Candidate

FOLDS = 3
MOST = 15_000
"""Items that are tried on: a choice is settled long before."""
FAR = 1e-3
DEPLOYED = "old/old"
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Of the new query, to choose from, where the old model's is there as well."""
TRIED: tuple[tuple[str, float | None], ...] = (
    (IDENTITY, None),
    ("ridge", None),
    ("cca", 0.1),
    ("cca", 0.3),
    ("ridge_cca", 0.3),
    ("whiten_cca", 0.1),
    ("whiten_cca", 0.3),
    ("whiten", 0.1),
    ("whiten", 0.3),
)
"""Kinds with their shrinkage; of two that are level the first is taken."""

Sides = tuple[Float32[np.ndarray, "q k"], Float32[np.ndarray, "g k"]]
Trial = Callable[[Pairs, Pairs, Pairs], Sides]
"""From the items to fit on, those that are queries and those of the gallery, to both sides."""


def fit_maps(kind: str, pairs: Pairs, shrinkage: float | None = None) -> Maps:
    """Return the maps of a kind, `identity` included; see `mixbct.adapters`.

    Raises:
        FeatureError: the kind cannot be fitted on these vectors, or takes no shrinkage.
    """
    if kind == IDENTITY:
        if pairs.dims[0] != pairs.dims[1]:
            raise FeatureError(
                "vectors of {} and {} dimensions cannot be compared as they are".format(*pairs.dims)
            )
        return None, None
    if shrinkage is not None and kind not in SHRUNK:
        raise FeatureError(f"{kind} takes no shrinkage; {', '.join(SHRUNK)} do")
    more = {} if shrinkage is None else {"shrinkage": shrinkage}
    return ADAPTERS[kind](pairs.source, pairs.target, pairs.labels, **more)


def choose(
    pairs: Pairs, seed: int = 0, kinds: tuple[tuple[str, float | None], ...] = TRIED
) -> tuple[Candidate, tuple[Candidate, ...]]:
    """Return the best kind by mAP and TAR at a FAR of 1e-3 together, and all that were tried.

    Those that cannot be fitted are not among them; the old model alone is, for comparison.

    Args:
        pairs: what the bridge is to be fitted on.
        seed: of the folds.
        kinds: to choose from, with their shrinkage.

    Raises:
        FeatureError: there are too few items to fit and to judge anything.
    """
    labels = pairs.labels
    if labels is None:
        pairs = pairs.take(np.sort(row_rng(seed).permutation(pairs.source.shape[0])[:MOST]))
        labels = told_apart(_neighbours(pairs.source[:]))
    if labels is None:
        raise FeatureError(
            f"{pairs.source.shape[0]} items are too few to choose a bridge by cross-validation: "
            f"give more, or name a kind: {', '.join(ADAPTERS)}"
        )
    rows, folds = _folds(labels, seed)
    pairs, labels = pairs.take(rows), labels[rows]

    def met(kind: str, shrinkage: float | None, rest: Pairs, query: Pairs, gallery: Pairs) -> Sides:
        if kind == DEPLOYED:
            return query.target[:], gallery.target[:]
        maps = fit_maps(kind, rest, shrinkage)
        return through(maps[0], query.source[:]), through(maps[1], gallery.target[:])

    tried = []
    for kind, shrinkage in (*kinds, (DEPLOYED, None)):
        with contextlib.suppress(FeatureError):
            figures = _mean_figures(pairs, labels, folds, partial(met, kind, shrinkage))
            tried.append(Candidate(kind=kind, shrinkage=shrinkage, **figures))
    real = [each for each in tried if each.kind != DEPLOYED]
    if not real:
        raise FeatureError("no kind of bridge can be fitted: are the vectors of a side all alike?")
    best = max(real, key=lambda each: each.mean_average_precision + each.true_accept_rate)
    return best, tuple(tried)


def told_apart(labels: Labels) -> Labels | None:
    """Return the labels, or None where they are too few classes of two items to judge by."""
    counts = np.unique(labels, return_counts=True)[1]
    return labels if (counts > 1).sum() >= 2 * FOLDS else None


def _neighbours(unit: Float32[np.ndarray, "n d"]) -> Labels:
    """Return labels under which two items are one class that are each other's nearest."""
    found = faiss.knn(unit, unit, 2, metric=faiss.METRIC_INNER_PRODUCT)[1]
    own = np.arange(len(unit))
    nearest = np.where(found[:, 0] == own, found[:, 1], found[:, 0])
    return np.where(nearest[nearest] == own, np.minimum(own, nearest), own)


def _folds(labels: Labels, seed: int) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
    """Return which items are tried on, and the fold of each; a class is in one fold."""
    _, of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = row_rng(seed, len(labels)).permutation(len(counts))
    # classes of several items first, so that each fold has its share of them
    order = order[np.argsort(counts[order] < 2, kind="stable")]
    fold = np.empty(len(counts), np.int64)
    fold[order] = np.arange(len(counts)) % FOLDS
    fold[order[np.cumsum(counts[order]) > MOST]] = -1
    rows = np.flatnonzero(fold[of] >= 0)
    return rows, fold[of[rows]]


def _mean_figures(pairs: Pairs, labels: Labels, folds: Labels, trial: Trial) -> dict[str, float]:
    """Return the figures of a `Candidate`, each the mean over the folds."""
    found = []
    for fold in range(FOLDS):
        # every second item of a class is a query; one alone is in the gallery
        rows = np.flatnonzero(folds == fold)
        order = rows[np.argsort(labels[rows], kind="stable")]
        _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
        odd = (np.arange(len(order)) - np.repeat(starts, sizes)) % 2 == 1
        parts = order[odd], order[~odd]
        sides = trial(pairs.take(folds != fold), *map(pairs.take, parts))
        query, gallery = (Embeddings(s, labels[p]) for s, p in zip(sides, parts, strict=True))
        found.append(compare(query, gallery, fars=(FAR,)))
    return {
        "mean_average_precision": fmean(one.mean_average_precision() for one in found),
        "true_accept_rate": fmean(one.true_accept_rate(one.thresholds[0]) for one in found),
    }


def choose_share(maps: Maps, pairs: Pairs) -> float:
    """Return the share of the new query in `both_queries` that is best on training classes.

    Args:
        maps: through which new queries meet old rows.
        pairs: the training items.

    Raises:
        FeatureError: there are no classes, or too few, to choose by.
    """
    labels = pairs.labels
    if labels is None:
        raise FeatureError("the training items have too few classes to choose a share by")
    rows, folds = _folds(labels, 0)
    pairs, labels = pairs.take(rows), labels[rows]
    met = Pairs(through(maps[0], pairs.source[:]), through(maps[1], pairs.target[:]), labels)

    def mixed(share: float, rest: Pairs, query: Pairs, gallery: Pairs) -> Sides:
        return both_queries(query.target[:], query.source[:], share), gallery.target[:]

    def reached(share: float) -> float:
        return sum(_mean_figures(met, labels, folds, partial(mixed, share)).values())

    return max(SHARES, key=reached)
