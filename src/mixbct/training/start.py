"""Where a head over vectors begins: at a map to the old space that an adapter fits.

The fitted map is the rival to beat, so a head begins there and earns what it adds. The map is
fitted on rows of which both the new and the old vector are stored; where the banks are not paired,
on the means of the classes that both know.

`model.start = "auto"` looks at the old vectors, at the length m of their mean. Around the origin
(m small) a head begins at the Procrustes rotation. In a narrow cone (m near 1, as of faces), where
no rotation comes, it begins at ridge's map and offset; what tells the classes apart is then small
beside the mean, 1 − m² of the squared length, and steps are made smaller by the square of that.
Larger ones lost the cone: on two face encoders (m = 0.91) a rate of 0.01 took TAR@1e-3 from 93 to
17, 0.001 to 79, and 0.0003 left it where it was.

Whether training took a head further than its start shows on some training classes set aside, a
tenth of those that have several rows. Neither the start is fitted on them nor the head trained;
both are judged on them, by the cross-test: new vectors on stored ones.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor, nn

from mixbct.adapters import ADAPTERS
from mixbct.backbones.model import VECTOR_BACKBONES
from mixbct.data.bank import normalise
from mixbct.data.foreign_bank import mean_norm
from mixbct.data.source import Selection, Source
from mixbct.errors import BankError, FeatureError, RecipeError
from mixbct.evaluation.comparison import compare
from mixbct.evaluation.scores import Embeddings
from mixbct.features.bridged import through
from mixbct.features.prototypes import class_means, prototypes
from mixbct.methods import OldRows
from mixbct.recipe import CompatibleSettings, Recipe
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.record import Document
from mixbct.training.task import open_old_bank

MOST_ROWS = 65_536
"""A map is settled long before; more rows would only cost memory."""
CONE = 0.5
"""From this length of their mean on, old vectors are taken to lie in a cone."""
SHARE = 10
FEWEST, MOST_SET_ASIDE = 10, 4096
"""Fewer classes say too little; more rows say no more."""

Pairs = tuple[Float32[np.ndarray, "n d1"], Float32[np.ndarray, "n d2"]]
Start = Literal["procrustes", "ridge"]
Embed = Callable[[Float32[np.ndarray, "n d"]], Float[Tensor, "n e"]]


class HeadStart(Document):
    """`start.json` of a run: what `model.start = "auto"` chose, and what came of it."""

    kind: Literal["head start"] = "head start"
    mean_length: float = Field(ge=0, description="of the mean of the normalised old vectors")
    start: Start
    rate: float = Field(gt=0, description="what optimizer.lr is multiplied by")
    held_out: int = Field(0, description="training classes set aside to compare start and end")
    at_start: tuple[float, float] | None = Field(None, description="their mAP and TAR@1e-3")
    at_end: tuple[float, float] | None = None

    @property
    def kept(self) -> bool:
        """Return whether the head was left as it began, since training took it no further."""
        return self.at_start is not None and sum(self.at_start) > sum(self.at_end or (0.0,))

    def __str__(self) -> str:
        where = "in a narrow cone" if self.start == "ridge" else "around the origin"
        said = (
            f"the old vectors lie {where} (their mean has length {self.mean_length:.2f}): began at "
            f"{self.start}, with {self.rate:.2g} of optimizer.lr"
        )
        if self.at_start is None or self.at_end is None:
            return f"{said}; too few classes to tell whether training took the head further"
        (mean, rate), (mean_then, rate_then) = self.at_start, self.at_end
        return (
            f"{said}; on {self.held_out} classes set aside mAP {mean:.1%} → {mean_then:.1%}, "
            f"TAR@1e-3 {rate:.1%} → {rate_then:.1%}, so the "
            f"{'start' if self.kept else 'trained head'} was kept"
        )


def start_at_adapter(
    name: Start | Literal["auto"], backbone: nn.Module, source: Source, old: OldRows
) -> HeadStart | None:
    """Let a backbone over vectors begin at an adapter's map from its inputs to the old space.

    A pure function of the two banks. A backbone begins as x ↦ x · matrix + offset where it has
    `start_at(matrix, offset)`, as heads do, and else where it is.

    Returns:
        What was chosen, where `name` is "auto".

    Raises:
        RecipeError: too few rows (or classes) are known on both sides to settle a map.
    """
    if (start_at := getattr(backbone, "start_at", None)) is None:
        return None
    new_side, old_side = paired_rows(source, old) if old.paired else paired_means(source, old)
    chosen = None
    if name == "auto":
        length = min(mean_norm(old_side), 1.0) if len(old_side) else 0.0
        name = "ridge" if length > CONE else "procrustes"
        chosen = HeadStart(mean_length=length, start=name, rate=max((1 - length**2) ** 2, 1e-4))
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
    start_at(torch.tensor(matrix), torch.tensor(offset))
    return chosen


def paired_rows(source: Source, old: OldRows) -> Pairs:
    """Return up to `MOST_ROWS` rows, spread evenly, as (new, old) vectors."""
    count = len(source)
    rows = np.linspace(0, count - 1, min(count, MOST_ROWS)).astype(np.int64)
    return source.read(rows), old.read(rows)


def paired_means(source: Source, old: OldRows) -> Pairs:
    """Return the normalised means, (new, old), of the classes that have vectors on both sides."""
    classes = len(source.classes())
    new_side = prototypes(*class_means(source.read, source.labels(), classes))
    old_side = prototypes(*class_means(old.read, old.labels, classes))
    both = new_side.known & old_side.known
    return new_side.values[both].numpy(), old_side.values[both].numpy()


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

    def judge(self, embed: Embed, gallery_map: LinearMap | None = None) -> tuple[float, float]:
        """Return mAP and TAR@1e-3 of embedded new vectors on the old ones, behind their map."""
        queries = normalise(embed(self.rows.read(self._queries)).float().numpy())
        query = Embeddings(queries, self.rows.labels()[self._queries])
        items = through(gallery_map, self.old.read(self._items))
        found = compare(query, Embeddings(items, self.old.labels[self._items]), fars=(1e-3,))
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
    chosen = chosen[np.cumsum(counts[chosen]) <= MOST_SET_ASIDE]
    away = np.isin(labels, chosen)
    if len(chosen) < FEWEST or (~away).sum() < recipe.train.batch:
        return None
    try:
        rest, rows = (Selection(source, np.flatnonzero(part)) for part in (~away, away))
        return HeldOut(method, rest, rows)
    except BankError:
        return None
