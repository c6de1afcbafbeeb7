"""NCCL: new features contrasted with a queue of old ones, in both spaces that a head has.

    L = (1/B) Σ ℓ(f_i, y_i; W) + (a/B) Σ n(f̂_i, o) + (b/B) Σ n(z(f_i), z(o))

    n(f_i, o) = −(1/|P_i|) Σ_{j ∈ P_i} w_ij log softmax_j (f_iᵀo_j/τ over the queue)
    w_ij = (1 + o_iᵀo_j)/2,    z(f) = Ŵf̂ (the logits: cosines with the class weights)

P_i are the queued old features of the same label. Old features that are not credible neither
enter the queue nor serve as an image's own: those for which the entropy of the class posterior
exceeds ½ ln C. A queued feature's logits are those under the present W, taken as constant.
Source: Wu et al., "Neighborhood Consensus Contrastive Learning for Backward-Compatible
Representation", AAAI 2022.

The posterior here is that of one isotropic Gaussian a class, all of the same variance and
weight. A published script normalises over a single column, so that its entropies are all zero
and every feature is credible. Another trap of published code: slots of the queue that were
never filled take part in the softmax as zeros; here the queue is as long as what it holds.
At the published τ = 1 the contrast of unit vectors is weak; docs/log.md has what 0.05 does.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mixbct.errors import RecipeError
from mixbct.heads.classifier import CosineHead, Head
from mixbct.methods.independent import classification
from mixbct.methods.method import Features, Losses, Method, Progress, StepPlan, Task, given
from mixbct.recipe import NCCLSettings


def posterior_entropy(
    old: Float[Tensor, "n d"], means: Float[Tensor, "c d"], variance: float
) -> Float[Tensor, " n"]:
    """Return the entropy, in nats, of p(c | o) ∝ exp(−‖o − μ_c‖²/2σ²) for each row.

    Args:
        old: normalised old features.
        means: μ, of the classes that have old features.
        variance: σ², of one dimension.
    """
    # ‖o‖² is the same for every class
    logits = (old @ means.t() - means.square().sum(1) / 2) / max(variance, 1e-12)
    log_posterior = logits.log_softmax(dim=1)
    # p·ln p → 0 where p underflows, and ln p is finite there
    entropy: Tensor = -(log_posterior.exp() * log_posterior).sum(1)
    return entropy


def contrastive_loss(
    similarities: Float[Tensor, "n q"],
    positive: Bool[Tensor, "n q"],
    weights: Float[Tensor, "n q"] | float = 1.0,
) -> Float[Tensor, " n"]:
    """Return −Σ w·log softmax over the positives of each row, by their number; 0 without any.

    Args:
        similarities: of each row with each old feature, divided by the temperature.
        positive: which of them have the row's label.
        weights: w, in [0, 1].
    """
    shares: Tensor = weights * similarities.log_softmax(dim=1) * positive
    return -shares.sum(1) / positive.sum(1).clamp_min(1)


class NCCL(Method):
    """Neighbourhood-consensus contrastive learning."""

    needs = frozenset({"old", "paired_old", "class_stats"})
    settings: NCCLSettings
    enqueued: Tensor

    def __init__(self, settings: NCCLSettings, task: Task) -> None:
        super().__init__(settings, task)
        if settings.queue < task.batch:
            raise RecipeError(
                f"method.queue = {settings.queue} cannot hold one batch of {task.batch}: raise it "
                "to train.batch at least"
            )
        stats = given(task.class_stats)
        self.variance = stats.variance
        self.means = nn.Buffer(stats.means[stats.counts > 0], persistent=False)
        self.entropy_limit = math.log(len(self.means)) / 2
        self.queue = nn.Buffer(torch.zeros(settings.queue, stats.means.shape[1]))
        self.queue_labels = nn.Buffer(torch.zeros(settings.queue, dtype=torch.int64))
        self.enqueued = nn.Buffer(torch.tensor(0))

    def plan(self, seed: int, epoch: int, step: int) -> StepPlan:
        """Return the batch with the old features of its images."""
        return self.task.paired_step(seed, epoch, step)

    def credible(self, old: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
        """Return which old features speak clearly for a class."""
        entropy = posterior_entropy(old, self.means.to(old.dtype), self.variance)
        return entropy <= self.entropy_limit

    @torch.no_grad()
    def enqueue(self, old: Float[Tensor, "n d"], labels: Int64[Tensor, " n"]) -> None:
        """Put old features in the place of the oldest ones."""
        first = int(self.enqueued)
        slots = torch.arange(first, first + len(old), device=old.device) % len(self.queue)
        self.queue[slots] = old.to(self.queue.dtype)
        self.queue_labels[slots] = labels
        self.enqueued += len(old)

    def losses(self, new: Features, old: Features, head: Head, progress: Progress) -> Losses:
        """Return the classification loss and both contrasts; the batch joins the queue first."""
        assert isinstance(head, CosineHead), "the recipe sees to that"
        credible = self.credible(old.values)
        own, labels = old.values[credible], old.labels[credible]
        # −1 is a class that none in training is
        every = replace(old, labels=old.labels.where(credible, -2)).everywhere()
        kept = every.labels > -2
        self.enqueue(every.values[kept], every.labels[kept])
        held = min(int(self.enqueued), len(self.queue))
        # a copy: the next step writes into the queue
        queue = self.queue[:held].to(own.dtype, copy=True)
        positive = labels[:, None] == self.queue_labels[:held]
        weights = (1 + own @ queue.t()) / 2
        features = F.normalize(new.values[credible])
        classes = F.normalize(head.present)
        # z(f)ᵀz(o) = f̂ᵀ(ŴᵀŴ)o, which needs no queue of C-dimensional logits, and is a sum over
        # the classes of each process
        between = new.world.sum(classes.t() @ classes.detach())
        scaled = queue.t() / self.settings.temperature
        of_features = contrastive_loss(features @ scaled, positive, weights)
        of_logits = contrastive_loss(features @ between @ scaled, positive, weights)
        return {
            "classification": classification(new, head),
            "features": self.settings.weight * of_features.sum() / new.total,
            "logits": self.settings.logit_weight * of_logits.sum() / new.total,
        }
