"""L2 regression: each new feature is drawn to the old feature of the same image.

    L = (1/B) Σ ℓ(f_i, y_i; W) + (λ/B) Σ max(d_i − δ, 0),    d_i = ‖f̂_i − o_i‖

`l2` has δ = 0, and d_i² in place of d_i with `squared`: the baseline that every paper on compatible
training has (Shen et al., CVPR 2020, sec. 4.3). `weakened_l2` lets a new feature lie anywhere
within δ of its old one; from the code published with MixBCT (Liang et al., arXiv 2308.06948).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mixbct.heads.classifier import Head
from mixbct.methods.independent import classification
from mixbct.methods.method import Features, Losses, Method, Progress, StepPlan
from mixbct.recipe import L2Settings, WeakenedL2Settings


def distances(new: Float[Tensor, "n d"], old: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Return ‖f̂_i − o_i‖ for raw new and normalised old features, in [0, 2].

    At distance zero, where the gradient is not defined, it is zero.
    """
    apart: Tensor = torch.linalg.vector_norm(F.normalize(new) - old, dim=1)
    return apart


class L2(Method):
    """L2 regression: plain, squared or with a slack."""

    needs = frozenset({"old", "paired_old"})
    settings: L2Settings | WeakenedL2Settings

    def plan(self, seed: int, epoch: int, step: int) -> StepPlan:
        """Return the batch with the old features of its images."""
        return self.task.paired_step(seed, epoch, step)

    def losses(self, new: Features, old: Features, head: Head, progress: Progress) -> Losses:
        """Return the classification loss and the mean of what exceeds the slack."""
        beyond = distances(new.values, old.values)
        if isinstance(self.settings, WeakenedL2Settings):
            beyond = (beyond - self.settings.slack).clamp_min(0)
        elif self.settings.squared:
            beyond = beyond**2
        return {
            "classification": classification(new, head),
            "l2": self.settings.weight * beyond.sum() / new.total,
        }
