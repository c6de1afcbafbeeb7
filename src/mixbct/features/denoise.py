"""Denoising: which old features are credible enough to stand for their class.

Per class the ⌈T·n⌉ features nearest to the class mean are kept, by Euclidean distance after
each feature was normalised (Liang et al., arXiv 2308.06948, sec. 3.3). Labels may come in any
order. The published script also normalises each column over the whole bank first; that is the
switch `normalise_columns`. How the rows are read: `by_class.py`.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from mixbct.data.bank import Bounds, FeatureBank
from mixbct.data.source import Progress, unseen
from mixbct.errors import FeatureError, RecipeError
from mixbct.features.by_class import measured_rows
from mixbct.reading import failing_as
from mixbct.schemas.data import DenoiseManifest


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
    rows = measured_rows(features, labels, normalise_columns, progress, within)
    return rows.in_bank(rows.nearest(keep))


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
    rows = measured_rows(features, labels, normalise_columns, progress, within)
    return rows.in_bank(rows.distances)


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
