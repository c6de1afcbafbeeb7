"""Independent training: the classification loss alone.

The oracle of the self-test, and in the cross-test what a naive swap of models would give.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor, nn

from mixbct.distributed import processes
from mixbct.heads.classifier import Head
from mixbct.methods.method import Features, StepPlan, Task
from mixbct.recipe import IndependentSettings

_NONE = np.empty(0, dtype=np.int64)


class Independent:
    """L = (1/B) Σ ℓ(f_i, y_i; W)."""

    def __init__(self, settings: IndependentSettings, task: Task) -> None:
        self.task = task

    def plan(self, seed: int, epoch: int, step: int) -> StepPlan:
        """Return the batch, and no old rows."""
        rows = self.task.batch_rows(seed, epoch, step)
        return StepPlan(rows, self.task.labels[rows], _NONE, _NONE, trained=len(rows))

    def losses(self, new: Features, old: Features, head: Head) -> Mapping[str, Tensor]:
        """Return the mean classification loss."""
        return {
            "classification": head(new.values, new.labels).sum() / (len(new.labels) * processes())
        }

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return nothing: the method has no parameters of its own."""
        return ()

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return nothing: the method has no state of its own."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Do nothing."""
