"""1:N open-set identification: TPIR at FPIR and ranks of probe templates against a gallery.

A probe is mated when its subject is in the gallery. FPIR is the share of non-mated probes of
which some gallery item scores above the threshold; TPIR is the share of mated probes whose own
subject ranks first and scores above it (the detection and identification rate at rank 1; Phillips,
Grother and Micheals, "Evaluation methods in face recognition", 2011, and the published IJB
scripts), so TPIR at FPIR 1 is rank-1.
"""

import numpy as np
import torch
from jaxtyping import Float32, Int64

from mixbct.errors import DataError
from mixbct.evaluation.roc import at_most, rate_point
from mixbct.evaluation.scores import CPU, Embeddings, Pair, pair_blocks
from mixbct.evaluation.thresholds import trials
from mixbct.schemas.protocols import GallerySearch, Identification
from mixbct.schemas.result import tar_name

FPIRS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
RANKS = (1, 5, 10)


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
