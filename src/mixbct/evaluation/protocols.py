"""Figures of face protocols: ROC, pairs over folds (1:1), open-set identification (1:N).

A trial is accepted when its score lies above the threshold. The same counts give TAR at a FAR, of
genuine and impostor trials, and TPIR at an FPIR, with a mated probe for a genuine trial and a
non-mated one for an impostor. A probe is mated when its subject is in the gallery. FPIR is the
share of non-mated probes of which some gallery item scores above the threshold; TPIR is the share
of mated probes whose own subject ranks first and scores above it (the detection and identification
rate at rank 1; Phillips, Grother and Micheals, "Evaluation methods in face recognition", 2011, and
the published IJB scripts), so TPIR at FPIR 1 is rank-1.

Pairs are listed, such as LFW's. Features may be of one model on both sides (self-test) or of the
old one for the first image of each pair and the new one for the second (cross-test).
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64

from mixbct.data.bank import normalise
from mixbct.errors import DataError, FeatureError
from mixbct.evaluation.scores import CPU, Embeddings, Pair, pair_blocks
from mixbct.evaluation.thresholds import Threshold, Trials, allowed_impostors, trials
from mixbct.schemas.protocols import Fold, GallerySearch, Identification, RatePoint, Verification
from mixbct.schemas.result import Curve, tar_name

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)

_CURVE_POINTS = 200

FOLDS = 10
FPIRS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
RANKS = (1, 5, 10)


def at_most(scores: Trials, far: float) -> Threshold:
    """Return the threshold with the largest TAR whose measured FAR does not exceed `far`.

    It is the (⌊far · impostors⌋ + 1)-th largest impostor score, or lies below all scores.

    Args:
        scores: of the trials.
        far: in (0, 1].
    """
    count = len(scores.impostor)
    allowed = allowed_impostors(far, count)
    value = scores.below_all() if allowed >= count else float(scores.impostor[count - allowed - 1])
    return Threshold(far, value, *scores.accepted(value), resolved=far * count >= 1)


def nearest(scores: Trials, far: float) -> Threshold:
    """Return the threshold with the largest TAR at the measured FAR that is nearest to `far`.

    Of two FARs that are equally near, the higher. Published IJB scripts choose so (among the
    points that their ROC routine kept); the FAR may then exceed the one that is named.
    """
    lower = at_most(scores, far)
    below = int(np.searchsorted(scores.impostor, np.float32(lower.value), "left"))
    value = float(scores.impostor[below - 1]) if below else scores.below_all()
    higher = Threshold(far, value, *scores.accepted(value), resolved=lower.resolved)
    count = len(scores.impostor)
    nearer = abs(higher.impostors / count - far) <= abs(lower.impostors / count - far)
    return higher if nearer else lower


def rate_point(scores: Trials, threshold: Threshold) -> RatePoint:
    """Return a threshold as the record that results hold."""
    return RatePoint(
        wanted=threshold.far,
        measured=threshold.impostors / len(scores.impostor),
        rate=threshold.genuine / len(scores.genuine),
        threshold=threshold.value,
        resolved=threshold.resolved,
    )


def area(scores: Trials) -> float:
    """Return the chance that a genuine trial scores above an impostor, ties counting one half."""
    below = np.searchsorted(scores.impostor, scores.genuine, "left")
    up_to = np.searchsorted(scores.impostor, scores.genuine, "right")
    return float((below.sum() + up_to.sum()) / (2 * len(scores.genuine) * len(scores.impostor)))


def curve(scores: Trials) -> Curve:
    """Return TAR (y) over FAR (x) at no more than 200 points, evenly spaced in log FAR."""
    count = len(scores.impostor)
    wanted = np.logspace(-np.log10(count), 0, min(_CURVE_POINTS, count)).tolist()
    points = {t.impostors: t.genuine for t in (at_most(scores, min(far, 1.0)) for far in wanted)}
    return Curve(
        x=tuple(impostors / count for impostors in points),
        y=tuple(genuine / len(scores.genuine) for genuine in points.values()),
    )


def verification(
    genuine: Float32[np.ndarray, " g"],
    impostor: Float32[np.ndarray, " i"],
    fars: tuple[float, ...] = FARS,
) -> Verification:
    """Return the 1:1 figures of two sets of scores.

    Raises:
        DataError: see `trials`.
    """
    scores = trials(genuine, impostor)

    return Verification(
        genuine_pairs=len(genuine),
        impostor_pairs=len(impostor),
        auc=area(scores),
        points=tuple(rate_point(scores, at_most(scores, far)) for far in fars),
        nearest_points=tuple(rate_point(scores, nearest(scores, far)) for far in fars),
        roc=curve(scores),
    )


def pair_similarities(
    first: Float[np.ndarray, "n d"],
    second: Float[np.ndarray, "m e"],
    pairs: Int64[np.ndarray, "p 2"],
) -> Float32[np.ndarray, " p"]:
    """Return the cosine of each pair.

    Args:
        first: raw features of every image by the model of the first side.
        second: the same images by the model of the second side (the same array for a self-test).
        pairs: rows of `first` and of `second`.

    Raises:
        FeatureError: the sides differ in dimension, or a feature cannot be normalised.
        DataError: a pair names a row that is not there.
    """
    if first.shape != second.shape:
        raise FeatureError(
            f"features of shapes {first.shape} and {second.shape} cannot be compared: both sides "
            "must be of the same images and of one dimension"
        )
    if len(pairs) and not 0 <= pairs.min() <= pairs.max() < len(first):
        raise DataError(f"pairs name rows {pairs.min()} to {pairs.max()} of {len(first)} images")
    left = normalise(first)
    right = left if second is first else normalise(second)
    return np.asarray(np.einsum("pd,pd->p", left[pairs[:, 0]], right[pairs[:, 1]]))


def best_threshold(scores: Float32[np.ndarray, " p"], same: Bool[np.ndarray, " p"]) -> float:
    """Return the threshold above which accepting gives the best accuracy.

    Exact: every distinct score is tried, and one just below them all. Of thresholds that are
    equally good the highest is taken, which accepts the fewest impostors.
    """
    below_all = np.nextafter(scores.min(), np.float32(-np.inf), dtype=np.float32)
    values = np.unique(np.append(scores, below_all))
    # genuine pairs at or below a threshold are lost there, impostors gained
    genuine, impostor = (np.sort(scores[which]) for which in (same, ~same))
    right = np.searchsorted(impostor, values, "right") - np.searchsorted(genuine, values, "right")
    return float(values[np.flatnonzero(right == right.max())[-1]])


def fold_accuracies(
    scores: Float32[np.ndarray, " p"],
    same: Bool[np.ndarray, " p"],
    fold: Int64[np.ndarray, " p"] | None = None,
) -> tuple[Fold, ...]:
    """Return each fold's accuracy at the best threshold of all other folds.

    Args:
        scores: of the pairs.
        same: whether a pair is genuine.
        fold: the fold of each pair; None for ten runs of neighbouring pairs of equal length (or
            differing by one), as scikit-learn's `KFold` and published scripts cut them.

    Raises:
        DataError: there is only one fold, or fewer pairs than folds.
    """
    if fold is None:
        fold = np.repeat(np.arange(FOLDS), [len(p) for p in np.array_split(scores, FOLDS)])
    numbers = np.unique(fold)
    if len(numbers) < 2 or len(scores) < FOLDS:
        raise DataError(
            f"{len(scores)} pairs in {len(numbers)} folds: at least {FOLDS} pairs in 2 folds are "
            "needed, since a fold's threshold is chosen on the others"
        )
    found = []
    for inside in (fold == number for number in numbers):
        threshold = best_threshold(scores[~inside], same[~inside])
        right = (scores[inside] > np.float32(threshold)) == same[inside]
        found.append(Fold(threshold=threshold, accuracy=float(right.mean())))
    return tuple(found)


def identify(
    probe: Embeddings,
    galleries: dict[str, Embeddings],
    fpirs: tuple[float, ...] = FPIRS,
    device: torch.device = CPU,
) -> Identification:
    """Return 1:N figures: TPIR averaged over the galleries, ranks pooled over mated probes.

    Args:
        probe: probe templates, labelled by subject.
        galleries: gallery templates by the gallery's name, with the same labels.
        fpirs: rates in (0, 1].
        device: where scores are computed.

    Raises:
        FeatureError: the two sides differ in dimension.
        DataError: all probes are mated to a gallery, or none is.
    """
    judged, ranks = [], []
    for name, gallery in galleries.items():
        mate, other, ahead = _search(probe, gallery, device)
        mated = mate > -np.inf
        if mated.all() or not mated.any():
            raise DataError(
                f"{int(mated.sum())} of {len(mated)} probes have their subject in gallery {name}: "
                "TPIR needs mated probes, FPIR needs non-mated ones"
            )
        # others that tie with the own subject come before it
        ranks.append(ahead[mated] + 1)
        first = np.where(ranks[-1] == 1, mate[mated], np.float32(-np.inf))
        scores = trials(first, other[~mated])
        search = GallerySearch(
            gallery=name,
            templates=len(gallery),
            mated_probes=int(mated.sum()),
            non_mated_probes=int((~mated).sum()),
            points=tuple(rate_point(scores, at_most(scores, fpir)) for fpir in fpirs),
            ranks=_rank_rates(ranks[-1]),
        )
        judged.append(search)
    names = [tar_name(fpir).replace("TAR", "TPIR") for fpir in fpirs]
    means = np.mean([[point.rate for point in each.points] for each in judged], axis=0).tolist()
    tpir, pooled = dict(zip(names, means, strict=True)), _rank_rates(np.concatenate(ranks))
    return Identification(galleries=tuple(judged), tpir=tpir, ranks=pooled)


def _search(
    probe: Embeddings, gallery: Embeddings, device: torch.device
) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Return what every probe finds in a gallery; the labels are subjects.

    Returns:
        [n] best score with the probe's own subject, −inf where it is not in the gallery; [n] best
        score with any other subject, −inf where there is none; [n] how many gallery items of other
        subjects score at least the first.
    """
    mate, other = np.empty((2, len(probe)), np.float32)
    ahead = np.empty(len(probe), np.int64)
    for (block,) in pair_blocks([Pair(probe, gallery)], device=device):
        best = block.genuine.amax(dim=1, keepdim=True)
        mate[block.rows] = best[:, 0].cpu()
        other[block.rows] = block.impostor.amax(dim=1).cpu()
        # a third of the time of sums of 64 bits
        ahead[block.rows] = (block.impostor >= best).sum(dim=1, dtype=torch.int32).cpu()
    return mate, other, ahead


def _rank_rates(ranks: Int64[np.ndarray, " m"]) -> dict[str, float]:
    return {f"rank-{k}": float((ranks <= k).mean()) for k in RANKS}
