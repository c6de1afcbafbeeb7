"""Some training classes set aside, to see whether training took a head further than its start.

A tenth of the classes that have several rows. Neither the start is fitted on them nor the head
trained; both are judged on them, by the cross-test: new vectors on stored ones.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32
from torch import Tensor

from mixbct.backbones.model import VECTOR_BACKBONES
from mixbct.data.bank import normalise
from mixbct.data.source import Selection, Source
from mixbct.errors import BankError
from mixbct.evaluation.comparison import compare
from mixbct.evaluation.scores import Embeddings
from mixbct.features.bridged import through
from mixbct.recipe import CompatibleSettings, Recipe
from mixbct.schemas.linear_map import LinearMap
from mixbct.training.old_bank import open_old_bank

SHARE = 10
FEWEST, MOST_ROWS = 10, 4096
"""Fewer classes say too little; more rows say no more."""


class HeldOut:
    """The classes set aside, and the rest.

    Args:
        method: of a head over vectors.
        rest: what is left to train on.
        rows: the rows of the classes set aside.

    Raises:
        BankError: the old bank knows none of them.
    """

    def __init__(self, method: CompatibleSettings, rest: Selection, rows: Selection) -> None:
        self.rest, self.rows, self.classes = rest, rows, len(rows.classes())
        _, self.old = open_old_bank(method.bank, rows, None, frozenset(), method.label_map)
        # row by row: every other item of a class searches, the others are searched
        in_classes = np.argsort(rows.labels(), kind="stable")
        self._queries, self._items = in_classes, np.flatnonzero(self.old.labels >= 0)
        if self.old.paired:
            self._queries, self._items = in_classes[::2], in_classes[1::2]

    def judge(
        self,
        embed: Callable[[Float32[np.ndarray, "n d"]], Float[Tensor, "n e"]],
        gallery_map: LinearMap | None = None,
    ) -> tuple[float, float]:
        """Return mAP and TAR@1e-3 of embedded new vectors on the old ones, behind their map."""
        queries = normalise(embed(self.rows.read(self._queries)).float().numpy())
        found = compare(
            Embeddings(queries, self.rows.labels()[self._queries]),
            Embeddings(
                through(gallery_map, self.old.read(self._items)), self.old.labels[self._items]
            ),
            fars=(1e-3,),
        )
        return found.mean_average_precision(), found.true_accept_rate(found.thresholds[0])


def hold_out(recipe: Recipe, source: Source) -> HeldOut | None:
    """Set classes aside for a head that chooses its start; None where there is none, or too few."""
    method, model = recipe.method, recipe.model
    chooses = model.start == "auto" and model.backbone in VECTOR_BACKBONES
    if not isinstance(method, CompatibleSettings) or method.query_map or not chooses:
        return None
    labels = source.labels()
    counts = np.bincount(labels)
    chosen = np.flatnonzero(counts >= 2)[::SHARE]
    chosen = chosen[np.cumsum(counts[chosen]) <= MOST_ROWS]
    away = np.isin(labels, chosen)
    if len(chosen) < FEWEST or (~away).sum() < recipe.train.batch:
        return None
    try:
        rest, rows = (Selection(source, np.flatnonzero(part)) for part in (~away, away))
        return HeldOut(method, rest, rows)
    except BankError:
        return None
