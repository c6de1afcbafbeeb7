"""Where a head over vectors begins: at a map to the old space that an adapter fits.

The fitted map is the rival to beat, so a head begins there and earns what it adds: at the
Procrustes rotation, or at ridge's map and offset where the old vectors do not lie around the
origin. The map is fitted on rows of which both the new and the old vector are stored; where the
banks are not paired, on the means of the classes that both know.
"""

from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from mixbct.adapters import ADAPTERS
from mixbct.data.source import Source
from mixbct.errors import FeatureError, RecipeError
from mixbct.features.prototypes import class_means, prototypes
from mixbct.methods import OldRows

MOST_ROWS = 65_536
"""A map is settled long before; more rows would only cost memory."""

Pairs = tuple[Float32[np.ndarray, "n d1"], Float32[np.ndarray, "n d2"]]


Start = Literal["procrustes", "ridge"]


@runtime_checkable
class Startable(Protocol):
    """A backbone over vectors that can begin as a given linear map."""

    def start_at(self, matrix: Float[Tensor, "inputs dim"], offset: Float[Tensor, " dim"]) -> None:
        """Begin as x ↦ x · matrix + offset."""
        ...


def start_at_adapter(name: Start, backbone: nn.Module, source: Source, old: OldRows) -> None:
    """Let a backbone over vectors begin at an adapter's map from its inputs to the old space.

    A pure function of the two banks. A backbone that is not `Startable` begins where it is.

    Raises:
        RecipeError: too few rows (or classes) are known on both sides to settle a map.
    """
    if not isinstance(backbone, Startable):
        return
    new_side, old_side = paired_rows(source, old) if old.paired else paired_means(source, old)
    try:
        fitted, _ = ADAPTERS[name](new_side, old_side, None)
    except FeatureError as error:
        what = "paired rows" if old.paired else "classes that both banks know"
        raise RecipeError(
            f"model.start = '{name}' is fitted on {what}: {error}; or set model.start = 'random'"
        ) from error
    assert fitted is not None, "both map the new side"
    matrix, offset = fitted.arrays
    if offset is None:
        offset = np.zeros(matrix.shape[1], dtype=np.float32)
    # copies, since the record's numbers are read-only
    backbone.start_at(torch.tensor(matrix), torch.tensor(offset))


def paired_rows(source: Source, old: OldRows) -> Pairs:
    """Return up to `MOST_ROWS` rows, spread evenly, as (new, old) vectors."""
    count = len(source)
    rows = np.arange(count)
    if count > MOST_ROWS:
        rows = np.linspace(0, count - 1, MOST_ROWS).astype(np.int64)
    return source.read(rows), old.read(rows)


def paired_means(source: Source, old: OldRows) -> Pairs:
    """Return the normalised means, (new, old), of the classes that have vectors on both sides."""
    classes = len(source.classes())
    new_side = prototypes(*class_means(source.read, source.labels(), classes))
    old_side = prototypes(*class_means(old.read, old.labels, classes))
    both = new_side.known & old_side.known
    return new_side.values[both].numpy(), old_side.values[both].numpy()
