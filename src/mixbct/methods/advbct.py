"""AdvBCT: new features that a discriminator cannot tell from old ones, near their old centres.

    L = (1/B) Σ ℓ(f_i, y_i; W) + γ(e)·L_adv + 4·L_p2s

    L_adv = (1/B) Σ −ln D_new(R(f̂_i)) + (1/B) Σ −ln D_old(o_i)
    L_p2s = (1/B) Σ max(‖f̂_i − μ_y‖ − r̂_y, 0),    r̂_c = r_c ± |r_c − t|·sigmoid(w_c)

R is the identity that multiplies the gradient by −(2/(1 + e^(−10p)) − 1), p the share of
training done; γ(e) = 4(E − e + 1)/E in epoch e of E, from 0. μ_c and r_c are the mean and the
largest distance to it of a class's old features, outliers cut (`ClassStats`). The elastic
boundary grows where r_c < t = 0.4 and shrinks elsewhere, which is r_c + (t − r_c)·sigmoid(w_c)
in both cases; w_c is learned. Classes with fewer than two old features have no radius, and
their rows no boundary. D is two linear layers of 100 and 2 outputs with batch normalisation and
ReLU between them. Source: Pan et al., "Boundary-Aware Backward-Compatible Representation via
Adversarial Learning in Image Retrieval", CVPR 2023, and its code.

The published code divides L_p2s by the number of rows outside their boundary
(`mean_over = "outside"`).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mixbct.distributed import OLD_ROWS, row_rng
from mixbct.heads.classifier import Head
from mixbct.methods.independent import classification
from mixbct.methods.method import Features, Losses, Method, Progress, StepPlan, Task, given
from mixbct.recipe import AdvBCTSettings

HIDDEN = 100
NEW, OLD = 0, 1


def reverse_gradient(values: Float[Tensor, "n d"], by: float) -> Float[Tensor, "n d"]:
    """Return the values as they are; their gradient is multiplied by −`by` on its way back.

    Source: Ganin and Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015.
    """
    same = values.view_as(values)
    if same.requires_grad:
        same.register_hook(lambda gradient: -by * gradient)  # type: ignore[no-untyped-call]
    return same


def reversal(done: float) -> float:
    """Return 2/(1 + e^(−10p)) − 1 for the share p of training done: 0 at first, 1 in the end."""
    return 2 / (1 + math.exp(-10 * done)) - 1


def beyond_boundary(
    features: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    means: Float[Tensor, "c d"],
    boundaries: Float[Tensor, " c"],
    bounded: Bool[Tensor, " c"],
) -> Float[Tensor, " n"]:
    """Return how far each normalised row lies outside its class's boundary; 0 for no boundary."""
    apart: Tensor = torch.linalg.vector_norm(F.normalize(features) - means[labels], dim=1)
    return (apart - boundaries[labels]).clamp_min(0) * bounded[labels]


class AdvBCT(Method):
    """Adversarial alignment with an elastic boundary."""

    needs = frozenset({"old", "class_stats"})
    settings: AdvBCTSettings

    def __init__(self, settings: AdvBCTSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.old = given(task.old)
        stats = given(task.class_stats)
        self.means = nn.Buffer(stats.means, persistent=False)
        self.radii = nn.Buffer(stats.radii, persistent=False)
        self.bounded = nn.Buffer(stats.counts > 1, persistent=False)
        self.elasticity = nn.Parameter(torch.empty(len(stats.radii)).uniform_(-1, 1))
        self.discriminator = nn.Sequential(
            nn.Linear(stats.means.shape[1], HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, 2),
        )

    def plan(self, seed: int, epoch: int, step: int) -> StepPlan:
        """Return the batch, with the old features of its images or else with any old ones."""
        if self.old.paired:
            return self.task.paired_step(seed, epoch, step)
        rng = row_rng(seed, OLD_ROWS, epoch, step)
        old_rows = rng.integers(0, len(self.old.labels), self.task.batch)
        return self.task.step(self.task.batch_rows(seed, epoch, step), old_rows)

    def boundaries(self) -> Float[Tensor, " c"]:
        """Return r̂, the elastic boundary of each class."""
        return self.radii + (self.settings.threshold - self.radii) * self.elasticity.sigmoid()

    def losses(self, new: Features, old: Features, head: Head, progress: Progress) -> Losses:
        """Return the classification, the adversarial and the boundary loss."""
        features = reverse_gradient(F.normalize(new.values), reversal(progress.done))
        discriminator_loss = F.cross_entropy(
            self.discriminator(features), torch.full_like(new.labels, NEW), reduction="sum"
        ) + F.cross_entropy(
            self.discriminator(old.values), torch.full_like(old.labels, OLD), reduction="sum"
        )
        outside = beyond_boundary(
            new.values, new.labels, self.means, self.boundaries(), self.bounded
        )
        by: Tensor | int = new.total
        if self.settings.mean_over == "outside":
            by = new.world.reduce((outside > 0).sum()).clamp_min(1)
        fading = (progress.epochs - progress.epoch + 1) / progress.epochs
        weight = self.settings.adversarial_weight * fading
        return {
            "classification": classification(new, head),
            "adversarial": weight * discriminator_loss / new.total,
            "boundary": self.settings.boundary_weight * outside.sum() / by,
        }
