"""Weakened L2 regression: a new feature may lie anywhere within δ of its old one.

    L = (1/B) Σ ℓ(f_i, y_i; W) + (λ/B) Σ max(‖f̂_i − o_i‖ − δ, 0)

From the code published with MixBCT (Liang et al., arXiv 2308.06948).
"""

from collections.abc import Mapping

from torch import Tensor

from mixbct.distributed import processes
from mixbct.heads.classifier import Head
from mixbct.methods.independent import classification
from mixbct.methods.l2 import distances
from mixbct.methods.method import Features, Method, Progress, StepPlan, Task
from mixbct.recipe import WeakenedL2Settings


class WeakenedL2(Method):
    """L2 regression with a slack of δ."""

    needs = frozenset({"old", "paired_old"})

    def __init__(self, settings: WeakenedL2Settings, task: Task) -> None:
        super().__init__(settings, task)
        self.task = task
        self.weight = settings.weight
        self.slack = settings.slack

    def plan(self, seed: int, epoch: int, step: int) -> StepPlan:
        """Return the batch with the old features of its images."""
        return self.task.paired_step(seed, epoch, step)

    def losses(
        self, new: Features, old: Features, head: Head, progress: Progress
    ) -> Mapping[str, Tensor]:
        """Return the classification loss and the mean of what exceeds the slack."""
        beyond = (distances(new.values, old.values) - self.slack).clamp_min(0)
        return {
            "classification": classification(new, head),
            "l2": self.weight * beyond.sum() / (len(beyond) * processes()),
        }
