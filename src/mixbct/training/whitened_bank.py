"""The old bank as a method sees it behind whitening: every row mapped and normalised again.

An old space is seldom good as it lies, and stored vectors can be compared in a better one without
being changed. A new model that is trained against the whitened rows searches the gallery through
the same map, which therefore goes into its bridge.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float32

from mixbct.adapters.whiten import whitening
from mixbct.data.source import Rows
from mixbct.errors import BankError, FeatureError
from mixbct.features.bridged import ReadRows, through
from mixbct.methods import OldRows


def whitened(old: OldRows, dim: int, shrinkage: float) -> OldRows:
    """Return the old rows behind a whitening that is fitted on those of training classes.

    Args:
        old: the rows as they are.
        dim: their dimension.
        shrinkage: in (0, 1], towards leaving the space as it is.

    Raises:
        BankError: the rows do not determine a whitening.
    """
    rows = np.flatnonzero(old.labels >= 0)
    try:
        side = whitening(ReadRows(old.read, rows, dim), old.labels[rows], shrinkage)
    except FeatureError as error:
        raise BankError(f"method.whiten: {error}") from error

    def read(chosen: Rows) -> Float32[np.ndarray, "n d"]:
        return through(side, old.read(chosen), chosen)

    return replace(old, read=read, gallery_map=side)
