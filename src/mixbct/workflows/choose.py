"""Which bridge is best between two spaces: tried on classes that its fit did not see.

Whether a space is better compared whitened, mapped or as it lies depends on the space, so it is
measured: training classes are cut into folds, each kind is fitted on the others, and new queries
search old rows of the fold. Where there are no classes, two items count as one that are each
other's nearest by the new model: that a new vector finds the old one of its own item is too easy to
tell kinds apart.
"""

from collections.abc import Callable
from functools import partial

import faiss
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from mixbct.adapters import ADAPTERS, SHRUNK
from mixbct.adapters.moments import Labels
from mixbct.data.bank import normalise
from mixbct.distributed import row_rng
from mixbct.errors import FeatureError
from mixbct.evaluation.comparison import compare
from mixbct.evaluation.scores import Embeddings
from mixbct.features.bridged import Vectors, both_queries, through
from mixbct.schemas.bridge import IDENTITY, Candidate
from mixbct.schemas.linear_map import LinearMap

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

Maps = tuple[LinearMap | None, LinearMap | None]
Held = Bool[np.ndarray, " n"]
Picked = Int64[np.ndarray, " _"]
Sides = tuple[Float32[np.ndarray, "_ k"], Float32[np.ndarray, "_ k"]]
Trial = Callable[[Held, Picked, Picked], Sides]
"""From which items are held out, and those of them that are queries and gallery, to both sides."""


def fit_maps(
    kind: str,
    source: Vectors,
    target: Vectors,
    labels: Labels | None,
    shrinkage: float | None = None,
) -> Maps:
    """Return the maps of a kind, `identity` included; see `mixbct.adapters`.

    Raises:
        FeatureError: the kind cannot be fitted on these vectors, or takes no shrinkage.
    """
    if kind == IDENTITY:
        if source.shape[1] != target.shape[1]:
            raise FeatureError(
                f"vectors of {source.shape[1]} and {target.shape[1]} dimensions cannot be compared "
                "as they are"
            )
        return None, None
    if shrinkage is None:
        return ADAPTERS[kind](source, target, labels)
    if kind not in SHRUNK:
        raise FeatureError(f"{kind} takes no shrinkage; {', '.join(SHRUNK)} do")
    return ADAPTERS[kind](source, target, labels, shrinkage=shrinkage)


def choose(
    source: Vectors, target: Vectors, labels: Labels | None, seed: int = 0
) -> tuple[Candidate, tuple[Candidate, ...]]:
    """Return the best kind by mAP and TAR at a FAR of 1e-3 together, and all that were tried.

    Those that cannot be fitted are not among them; the old model alone is, for comparison.

    Args:
        source: the new model's vectors.
        target: the old model's, of the same items.
        labels: class of each item, or None.
        seed: of the folds.

    Raises:
        FeatureError: there are too few items to fit and to judge anything.
    """
    of = labels
    if labels is None:
        rows = np.sort(row_rng(seed).permutation(source.shape[0])[:MOST])
        source, target = normalise(source[rows]), normalise(target[rows])
        of = told_apart(_neighbours(source))
    if of is None:
        raise FeatureError(
            f"{source.shape[0]} items are too few to choose a bridge by cross-validation: give "
            f"more, or name a kind: {', '.join(ADAPTERS)}"
        )
    rows, folds = _folds(of, seed)
    x, y, of = normalise(source[rows]), normalise(target[rows]), of[rows]

    def sides(
        kind: str, shrinkage: float | None, held: Held, query: Picked, gallery: Picked
    ) -> Sides:
        if kind == DEPLOYED:
            return y[query], y[gallery]
        known = of[~held] if labels is not None else None
        maps = fit_maps(kind, x[~held], y[~held], known, shrinkage)
        return through(maps[0], x[query]), through(maps[1], y[gallery])

    tried: list[Candidate] = []
    for kind, shrinkage in (*TRIED, (DEPLOYED, None)):
        try:
            means = _mean_figures(of, folds, partial(sides, kind, shrinkage))
        except FeatureError:
            continue
        tried.append(
            Candidate(
                kind=kind,
                shrinkage=shrinkage,
                mean_average_precision=float(means[0]),
                true_accept_rate=float(means[1]),
            )
        )
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


def _mean_figures(
    labels: Labels, folds: Int64[np.ndarray, " n"], trial: Trial
) -> Float64[np.ndarray, "2"]:
    """Return mAP and TAR, the mean over the folds."""
    figures = []
    for fold in range(FOLDS):
        # every second item of a class is a query; one alone is in the gallery
        held = folds == fold
        rows = np.flatnonzero(held)
        order = rows[np.argsort(labels[rows], kind="stable")]
        _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
        odd = (np.arange(len(order)) - np.repeat(starts, sizes)) % 2 == 1
        query, gallery = order[odd], order[~odd]
        sides = trial(held, query, gallery)
        found = compare(
            Embeddings(sides[0], labels[query]), Embeddings(sides[1], labels[gallery]), fars=(FAR,)
        )
        figures.append(
            (found.mean_average_precision(), found.true_accept_rate(found.thresholds[0]))
        )
    return np.asarray(np.mean(figures, axis=0))


def choose_share(maps: Maps, source: Vectors, target: Vectors, labels: Labels | None) -> float:
    """Return the share of the new query in `both_queries` that is best on training classes.

    Args:
        maps: through which new queries meet old rows.
        source: the new model's vectors.
        target: the old model's, of the same items.
        labels: class of each item.

    Raises:
        FeatureError: there are no classes, or too few, to choose by.
    """
    if labels is None:
        raise FeatureError("the training items have too few classes to choose a share by")
    rows, folds = _folds(labels, 0)
    new = through(maps[0], normalise(source[rows]))
    old = through(maps[1], normalise(target[rows]))

    def mixed(share: float, held: Held, query: Picked, gallery: Picked) -> Sides:
        return both_queries(old[query], new[query], share), old[gallery]

    def reached(share: float) -> float:
        return float(_mean_figures(labels[rows], folds, partial(mixed, share)).sum())

    return max(SHARES, key=reached)
