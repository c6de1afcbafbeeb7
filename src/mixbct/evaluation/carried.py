"""The threshold that an upgraded system runs at: does it keep the false-accept rate?"""

import numpy as np

from mixbct.distributed import row_rng
from mixbct.errors import DataError
from mixbct.evaluation.comparison import compare
from mixbct.evaluation.scores import Embeddings
from mixbct.evaluation.thresholds import Threshold, false_accept_rate
from mixbct.schemas.result import CarriedThreshold


def carry_threshold(
    old: Threshold,
    query: Embeddings,
    gallery: Embeddings,
    *,
    seed: int,
) -> CarriedThreshold:
    """Set a threshold for the cross-test on half of the query classes, measure it on the rest.

    Both the threshold and the two rates are exact, over all impostor pairs of their classes.

    Args:
        old: where the old system reaches the rate, on all classes.
        query: the new model's queries.
        gallery: the old model's gallery.
        seed: of the split into halves.

    Raises:
        DataError: there is only one query class, or a half lacks genuine or impostor pairs.
    """
    if len(query.classes) < 2:
        raise DataError(
            "a threshold is set on half of the query classes and measured on the other half: "
            "at least 2 classes are needed, there is 1"
        )
    shuffled = row_rng(seed, len(query.classes)).permutation(query.classes)
    chosen = np.isin(query.labels, shuffled[: len(shuffled) // 2])
    calibration = query.take(np.flatnonzero(chosen))
    rest = query.take(np.flatnonzero(~chosen))
    (cross,) = compare(calibration, gallery, fars=(old.far,)).thresholds
    return CarriedThreshold(
        far=old.far,
        old_threshold=old.value,
        far_at_old_threshold=false_accept_rate(query, gallery, old.value),
        threshold=cross.value,
        measured_far=false_accept_rate(rest, gallery, cross.value),
    )
