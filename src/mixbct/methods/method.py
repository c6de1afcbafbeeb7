"""What a compatible-training method is to the training loop.

A method declares what it must know of the old model (`needs`), decides before anything is read
which rows a step forwards and which old features join it (`plan`), and turns both into named
losses (`losses`). What it trains or keeps are its parameters and buffers. The loop knows nothing
else about it. Plans are pure functions of (seed, epoch, step): a batch can be read ahead of
time, a run can resume in the middle of an epoch, and any process can compute any other's plan.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from mixbct.distributed import ALONE, ORDER, World, row_rng
from mixbct.errors import BankError, RecipeError
from mixbct.features.prototypes import ClassDirections, ClassStats
from mixbct.heads.classifier import Head
from mixbct.schemas.linear_map import LinearMap

RowIndices = Int64[np.ndarray, " _"]
NO_ROWS: RowIndices = np.empty(0, dtype=np.int64)
ThingT = TypeVar("ThingT")

Losses = Mapping[str, Tensor]
"""Named scalars whose sum is minimised."""

Need = Literal["old", "paired_old", "credible", "prototypes", "class_stats"]
"""What a method may need of the old model's bank:

old             old features join its steps
paired_old      row i of the bank is the old feature of training row i
credible        the bank was denoised
prototypes      the normalised mean old feature of each class
class_stats     where each class's old features lie, and how far they spread
"""

Extract = Callable[[RowIndices], Float[Tensor, "n d"]]
"""Gives the present new features of some training rows, raw, in main memory, in evaluation mode."""


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

    def share(self, world: World) -> tuple["StepPlan", RowIndices]:
        """Return what one process does of the step, and which of the forwarded rows those are.

        Trained rows, others and old ones are each spread evenly, in order: where old rows go with
        trained ones, row by row, they still do.
        """
        forwarded, old = len(self.forward_rows), len(self.old_rows)
        trained = world.span(world.counts(self.trained))
        others = world.span(world.counts(forwarded - self.trained))
        every = np.arange(forwarded)
        own = np.concatenate([every[: self.trained][trained], every[self.trained :][others]])
        joining = world.span(world.counts(old))
        plan = StepPlan(
            self.forward_rows[own],
            self.forward_labels[own],
            self.old_rows[joining],
            self.old_labels[joining],
            trained.stop - trained.start,
        )
        return plan, own


@dataclass(frozen=True)
class Features:
    """This process's features of a step, with their classes.

    Attributes:
        values: one a row.
        labels: in [0, c).
        counts: how many rows each process has; none: all are here.
        world: the processes.
    """

    values: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]
    counts: tuple[int, ...] = ()
    world: World = ALONE

    @property
    def total(self) -> int:
        """Return how many rows there are in all; what a sum over rows is divided by."""
        return sum(self.counts) if self.counts else len(self.labels)

    def first(self, count: int) -> "Features":
        """Return those of the first rows of all, in the order of the plan."""
        ends = np.minimum(np.cumsum(self.counts), count)
        counts = tuple(np.diff(ends, prepend=0).tolist())
        own = counts[self.world.rank] if counts else count
        return Features(self.values[:own], self.labels[:own], counts, self.world)

    def joined(self, other: "Features") -> "Features":
        """Return these rows and the others, of each process."""
        values = torch.cat([self.values, other.values])
        labels = torch.cat([self.labels, other.labels])
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Features(values, labels, counts, self.world)

    def everywhere(self) -> "Features":
        """Return the rows of all processes, in the order of the plan."""
        return Features(*self.world.gather_labelled(self.values, self.labels, self.counts))


@dataclass(frozen=True)
class Progress:
    """How far the run is, for losses whose weights change over it.

    Attributes:
        epoch: from 0.
        epochs: of the whole run.
        done: share of all steps before this one, in [0, 1).
    """

    epoch: int
    epochs: int
    done: float


@dataclass(frozen=True)
class OldRows:
    """What a method may know of the old bank.

    Attributes:
        labels: [M] class of each old row among the training classes, −1 where not among them.
        paired: whether old row i and training row i are of the same image.
        read: gives the normalised old features of some rows.
        credible: [M] which rows denoising kept, for methods that need it.
        gallery_map: what the stored rows went through before `read` gave them; None: nothing.
    """

    labels: Int64[np.ndarray, " m"]
    paired: bool
    read: Callable[[RowIndices], Float32[np.ndarray, "n d"]]
    credible: Bool[np.ndarray, " m"] | None = None
    gallery_map: LinearMap | None = None


@dataclass(frozen=True)
class Task:
    """What a method is built for.

    Attributes:
        labels: [N] class of each training row, without gaps.
        batch: rows of a step.
        old: the old bank, where the recipe names one. This and what follows is there where the
            method's `needs` have it.
        prototypes: [C, D] normalised mean old feature of each class.
        class_stats: where each class's old features lie.
        old_classifier: [C, D] the old model's class weights, where the recipe names that model.
        world: the processes that share each step.
    """

    labels: RowIndices
    batch: int
    old: OldRows | None = None
    prototypes: ClassDirections | None = None
    class_stats: ClassStats | None = None
    old_classifier: ClassDirections | None = None
    world: World = ALONE

    def __post_init__(self) -> None:
        if self.batch < self.world.size:
            raise RecipeError(
                f"train.batch = {self.batch} leaves one of {self.world.size} processes without a "
                "row: raise it, or start fewer processes"
            )
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

    def step(
        self, rows: RowIndices, old_rows: RowIndices = NO_ROWS, trained: int | None = None
    ) -> StepPlan:
        """Return the plan of a step on new and old rows; every new one is trained unless told."""
        old_labels = NO_ROWS if self.old is None else self.old.labels[old_rows]
        trained = len(rows) if trained is None else trained
        return StepPlan(rows, self.labels[rows], old_rows, old_labels, trained)

    def paired_step(self, seed: int, epoch: int, step: int) -> StepPlan:
        """Return a step on each image's new and old feature, in the same order."""
        rows = self.batch_rows(seed, epoch, step)
        return self.step(rows, rows)


@lru_cache(maxsize=2)
def _permutation(rows: int, seed: int, epoch: int) -> RowIndices:
    return row_rng(seed, ORDER, epoch).permutation(rows).astype(np.int64)


def given(thing: ThingT | None) -> ThingT:
    """Return what `Method.__init__` has found to be there."""
    assert thing is not None, "a need that was not declared"
    return thing


class Method(nn.Module, ABC):
    """One published method.

    A module, since its parameters are trained along, and its buffers are in the checkpoint; it
    has no forward pass of its own.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    settings: Any

    def __init__(self, settings: Any, task: Task) -> None:
        """Check that the task holds what the method needs.

        Raises:
            BankError: it does not.
        """
        super().__init__()
        self.settings = settings
        self.task = task
        old = task.old
        there: dict[Need, bool] = {
            "old": old is not None,
            "paired_old": old is not None and old.paired,
            "credible": old is not None and old.credible is not None,
            "prototypes": task.prototypes is not None,
            "class_stats": task.class_stats is not None,
        }
        missing = sorted(need for need in self.needs if not there[need])
        if missing:
            raise BankError(
                f"method {type(self).__name__} needs of the old model: {', '.join(missing)}; name "
                "its bank as method.bank"
            )

    def plan(self, seed: int, epoch: int, step: int) -> StepPlan:
        """Return what one step works on; `step` counts within the epoch. No old rows here."""
        return self.task.step(self.task.batch_rows(seed, epoch, step))

    @abstractmethod
    def losses(self, new: Features, old: Features, head: Head, progress: Progress) -> Losses:
        """Return named scalars whose sum is minimised.

        Args:
            new: raw features of the plan's trained rows.
            old: normalised features of the plan's old rows.
            head: the classifier in training.
            progress: how far the run is.
        """

    def query_map(self) -> Float[Tensor, "d e"] | None:
        """Return what takes new features into the old space; None where they lie there already."""
        return None

    def gallery_map(self) -> Float[Tensor, "d d"] | None:
        """Return what old features go through, after `OldRows.gallery_map`; None: nothing."""
        return None

    def on_epoch(self, epoch: int, extract: Extract) -> None:
        """Look at the whole training set before the first step of an epoch; most do not.

        What comes of it must be a function of the arguments and of the method's buffers alone,
        and lie in its buffers: a run that resumes in the middle of an epoch does not call this.
        """
