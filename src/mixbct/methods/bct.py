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
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mixbct.heads.classifier import Head, cosine_scale
from mixbct.methods.independent import classification
from mixbct.methods.method import Features, Losses, Method, Progress, Task, given
from mixbct.recipe import BCTSettings


def influence(
    features: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    directions: Float[Tensor, "c d"],
    known: Bool[Tensor, " c"],
    scale: float,
) -> Float[Tensor, " n"]:
    """Return the cross-entropy of each row under fixed class directions; 0 for unknown classes.

    Args:
        features: raw.
        labels: in [0, c).
        directions: of any length, zero where not known.
        known: which classes have a direction.
        scale: s, multiplies the cosines.
    """
    cosines = F.normalize(features) @ F.normalize(directions).to(features.dtype).t()
    logits = (scale * cosines).masked_fill(~known, -torch.inf)
    there = known[labels]
    # a row of an unknown class has an infinite loss, and its gradient would be NaN
    safe = torch.where(there, labels, known.to(torch.int8).argmax())
    return F.cross_entropy(logits, safe, reduction="none") * there


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
        self.directions = nn.Buffer(directions, persistent=False)
        self.known = nn.Buffer(known, persistent=False)

    def losses(self, new: Features, old: Features, head: Head, progress: Progress) -> Losses:
        """Return the classification loss under the new and under the old weights."""
        scale = cosine_scale(head) if self.settings.scaled else 1.0
        rows = influence(new.values, new.labels, self.directions, self.known, scale)
        return {
            "classification": classification(new, head),
            "influence": self.settings.weight * rows.sum() / new.total,
        }
