"""What a compatible-training method is to the training loop.

A method decides, before anything is read, which rows a step forwards and which old features
join it (`plan`), and turns both into named losses (`losses`). The loop knows nothing else
about it. Plans are pure functions of (seed, epoch, step): a batch can be read ahead of time,
a run can resume in the middle of an epoch, and any process can compute any other's plan.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mixbct.distributed import row_rng
from mixbct.errors import RecipeError
from mixbct.heads.classifier import Head

# streams of random numbers: a new use takes a new number, so that none disturbs another
ORDER, OLD_ROWS, AUGMENT = range(3)

RowIndices = Int64[np.ndarray, " _"]


@dataclass(frozen=True)
class StepPlan:
    """Which rows one step works on.

    Attributes:
        forward_rows: rows of the training set to read and to forward.
        forward_labels: their classes.
        old_rows: rows of the old bank that join the step.
        old_labels: their classes.
        trained: how many of the forwarded rows, from the first, have a loss of their own. The
            others are forwarded all the same: they shape the batch statistics.
    """

    forward_rows: Int64[np.ndarray, " forwarded"]
    forward_labels: Int64[np.ndarray, " forwarded"]
    old_rows: Int64[np.ndarray, " old"]
    old_labels: Int64[np.ndarray, " old"]
    trained: int


@dataclass(frozen=True)
class Features:
    """Features with their classes."""

    values: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]


@dataclass(frozen=True)
class OldRows:
    """What a method may know of the old bank before it is read.

    Attributes:
        labels: [M] class of each old row among the training classes, −1 where not among them.
        credible: [M] which rows denoising kept.
        paired: whether old row i and training row i are of the same image.
    """

    labels: Int64[np.ndarray, " m"]
    credible: Bool[np.ndarray, " m"]
    paired: bool


@dataclass(frozen=True)
class Task:
    """What a method is built for.

    Attributes:
        labels: [N] class of each training row, without gaps.
        batch: rows of a step.
        old: the old bank, where the recipe names one.
    """

    labels: RowIndices
    batch: int
    old: OldRows | None = None

    def __post_init__(self) -> None:
        if len(self.labels) < self.batch:
            raise RecipeError(
                f"train.batch is {self.batch}, but there are only {len(self.labels)} training "
                "images: lower train.batch"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of full batches; the rows left over wait for the next epoch."""
        return len(self.labels) // self.batch

    def batch_rows(self, seed: int, epoch: int, step: int) -> RowIndices:
        """Return the rows of a step: each epoch is a permutation, cut into batches."""
        order = _permutation(len(self.labels), seed, epoch)
        return order[step * self.batch : (step + 1) * self.batch]


@lru_cache(maxsize=2)
def _permutation(rows: int, seed: int, epoch: int) -> RowIndices:
    return row_rng(seed, ORDER, epoch).permutation(rows).astype(np.int64)


@runtime_checkable
class Method(Protocol):
    """One published method."""

    def plan(self, seed: int, epoch: int, step: int) -> StepPlan:
        """Return what one step works on. `step` counts within the epoch."""
        ...

    def losses(self, new: Features, old: Features, head: Head) -> Mapping[str, Tensor]:
        """Return named scalars whose sum is minimised.

        Args:
            new: raw features of the plan's trained rows.
            old: normalised features of the plan's old rows.
            head: the classifier in training.
        """
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return what the method itself trains."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return what a checkpoint must hold of the method."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up the state that `state_dict` gave."""
        ...
