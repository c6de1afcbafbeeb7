"""BCT: new features must also be classified rightly by the old model's class weights.

    L = (1/B) Σ ℓ(f_i, y_i; W) + (λ/B) Σ ℓ₀(f_i, y_i; P)
    ℓ₀(f, y; P) = −log softmax_y (s·f̂ᵀP_c over the classes c)

P_c is the old classifier's weight where the old model knew the class, and the normalised mean
old feature where it did not ("synthesized classifier weights"); means everywhere when only a
bank exists. Both are taken as directions: a bias is dropped. s is the scale of the new head; no
margin. Classes without a direction are left out: they are no choice, and rows of them have no
influence loss. Source: Shen et al., "Towards Backward-Compatible Representation Learning",
CVPR 2020, eq. 4 and sec. 3.3. With `scaled = false` s is 1, as in some published code: the
influence is then much weaker.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mixbct.distributed import ALONE, World
from mixbct.heads.classifier import Head, cosine_scale
from mixbct.heads.margin_softmax import Margin, Share, margin_losses
from mixbct.heads.margins import unmoved
from mixbct.heads.workspace import Workspace
from mixbct.methods.independent import classification
from mixbct.methods.method import Features, Losses, Method, Progress, Task, given
from mixbct.recipe import BCTSettings


class Influence(nn.Module):
    """The cross-entropy under fixed class directions, which the processes share out.

    Args:
        directions: [C, D] of any length, zeros where not known.
        known: [C] which classes have a direction.
        world: the processes.
        persistent: a checkpoint is to have the directions.
    """

    def __init__(
        self,
        directions: Float[Tensor, "c d"],
        known: Bool[Tensor, " c"],
        world: World = ALONE,
        persistent: bool = False,
    ) -> None:
        super().__init__()
        every = known.nonzero()[:, 0]
        self.any_known, self.span = bool(len(every)), world.span(world.counts(len(every)))
        self.directions = nn.Buffer(directions, persistent=persistent)
        self.known = nn.Buffer(known, persistent=False)
        self.own = nn.Buffer(every[self.span], persistent=False)
        self.places = nn.Buffer(known.cumsum(0) - 1, persistent=False)
        self.workspace = Workspace()

    def forward(self, new: Features, scale: float) -> Float[Tensor, " n"]:
        """Return the loss of each row; 0 for those of unknown classes.

        Args:
            new: raw features.
            scale: s, multiplies the cosines.
        """
        if not self.any_known:
            return new.values.sum(1) * 0
        # a row of an unknown class has the loss of any other one, and is not counted
        losses = margin_losses(
            F.normalize(new.values),
            self.directions[self.own].to(new.values.dtype),
            self.places[new.labels].clamp_min(0),
            Margin(unmoved, 0.0, scale),
            Share(new.counts, self.span, None, new.world),
            self.workspace,
        )
        return losses * self.known[new.labels]


class BCT(Method):
    """Backward-compatible training with an influence loss."""

    needs = frozenset({"prototypes"})
    settings: BCTSettings

    def __init__(self, settings: BCTSettings, task: Task) -> None:
        super().__init__(settings, task)
        means, weights = given(task.prototypes), task.old_classifier
        directions, known = means.values, means.known
        if weights is not None:
            directions = torch.where(weights.known[:, None], weights.values, directions)
            known = known | weights.known
        self.influence = Influence(directions, known, task.world)

    def losses(self, new: Features, old: Features, head: Head, progress: Progress) -> Losses:
        """Return the classification loss under the new and under the old weights."""
        scale = cosine_scale(head) if self.settings.scaled else 1.0
        rows = self.influence(new, scale)
        return {
            "classification": classification(new, head),
            "influence": self.settings.weight * rows.sum() / new.total,
        }
