"""Classification heads: features and labels in, one loss a row out.

A loss a row (and not a mean) is what lets a method weigh rows, mix old ones in, and divide by
the number of rows of all processes. Class weights that live on several processes can stand
behind the same call.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mixbct.errors import RecipeError
from mixbct.heads.margins import arcface, cosface
from mixbct.recipe import ArcFaceSettings, CosFaceSettings, HeadSettings, SoftmaxSettings

RowLosses = Float[Tensor, " n"]
Margin = Callable[[Float[Tensor, " n"], float], Float[Tensor, " n"]]


class CosineHead(nn.Module):
    """Margin softmax over cosines: features and class weights are both normalised.

    Args:
        classes: number of classes C.
        dim: of the features.
        margin_function: `arcface` or `cosface`.
        scale: s, multiplies every logit.
        margin: m.
    """

    def __init__(
        self, classes: int, dim: int, margin_function: Margin, scale: float, margin: float
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, dim) * 0.01)
        self.margin_function = margin_function
        self.scale = scale
        self.margin = margin

    def forward(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, " n"]) -> RowLosses:
        """Return the cross-entropy of each row."""
        cosines = F.normalize(features) @ F.normalize(self.weight).t()
        target = cosines.gather(1, labels[:, None]).squeeze(1)
        # rounding can leave the cosine a hair outside [−1, 1]
        moved = self.margin_function(target.clamp(-1, 1), self.margin)
        logits = cosines.scatter(1, labels[:, None], moved[:, None]) * self.scale
        return F.cross_entropy(logits, labels, reduction="none")


class LinearHead(nn.Module):
    """A linear classifier with bias over raw features; it is dropped before extraction."""

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, dim) * 0.01)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, " n"]) -> RowLosses:
        """Return the cross-entropy of each row."""
        return F.cross_entropy(F.linear(features, self.weight, self.bias), labels, reduction="none")


Head = CosineHead | LinearHead


def cosine_scale(head: Head) -> float:
    """Return what a head multiplies its cosines by.

    Raises:
        RecipeError: it has no cosines.
    """
    if isinstance(head, LinearHead):
        raise RecipeError(
            "this method needs a head over cosines: set head.name to 'arcface' or 'cosface'"
        )
    return head.scale


def build_head(settings: HeadSettings, classes: int, dim: int) -> Head:
    """Build the head that a recipe names."""
    match settings:
        case ArcFaceSettings(scale=scale, margin=margin):
            return CosineHead(classes, dim, arcface, scale, margin)
        case CosFaceSettings(scale=scale, margin=margin):
            return CosineHead(classes, dim, cosface, scale, margin)
        case SoftmaxSettings():
            return LinearHead(classes, dim)
