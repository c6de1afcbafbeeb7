"""Classification heads: features and labels in, one loss a row out.

A loss a row (and not a mean) is what lets a method weigh rows, mix old ones in, and divide by
the number of rows of all processes. Class weights that live on several processes can stand
behind the same call.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mixbct.errors import RecipeError
from mixbct.heads.margin_softmax import margin_softmax
from mixbct.heads.margins import arcface, cosface
from mixbct.recipe import ArcFaceSettings, CosFaceSettings, HeadSettings, SoftmaxSettings

RowLosses = Float[Tensor, " n"]


class CosineHead(nn.Module):
    """Margin softmax over cosines: features and class weights are both normalised.

    Args:
        classes: number of classes C.
        dim: of the features.
        settings: which margin, m; s, which multiplies every logit; and the share of the classes
            that a step looks at. Below 1 these are the classes of the rows, and others drawn at
            random to make up ⌈share·C⌉ (An et al., "Partial FC", ICCV workshops 2021). The draw is
            torch's, which the training loop seeds anew by the run's seed and the step.
    """

    def __init__(self, classes: int, dim: int, settings: ArcFaceSettings | CosFaceSettings) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, dim) * 0.01)
        self.settings = settings
        self.margin_function = arcface if isinstance(settings, ArcFaceSettings) else cosface

    def forward(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, " n"]) -> RowLosses:
        """Return the cross-entropy of each row, over all classes or a sample of them."""
        weight: Tensor = self.weight
        margin, scale = self.settings.margin, self.settings.scale
        if self.settings.sample < 1:
            chosen = sample_classes(labels, len(weight), self.settings.sample)
            weight = weight.index_select(0, chosen)
            labels = torch.searchsorted(chosen, labels)
        return margin_softmax(
            F.normalize(features), weight, labels, self.margin_function, margin, scale
        )


def sample_classes(labels: Int64[Tensor, " n"], classes: int, share: float) -> Int64[Tensor, " k"]:
    """Return all classes of `labels` and random others, ⌈share·classes⌉ or more, in order."""
    # whoever has a label is drawn first; drawn in main memory, every device draws the same
    luck = torch.rand(classes, dtype=torch.float32).to(labels.device)
    luck[labels] = 2.0
    wanted = max(math.ceil(share * classes), int((luck == 2.0).sum()))
    chosen: Tensor = luck.topk(wanted, sorted=False).indices.sort().values
    return chosen


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
    return head.settings.scale


def build_head(settings: HeadSettings, classes: int, dim: int) -> Head:
    """Build the head that a recipe names."""
    if isinstance(settings, SoftmaxSettings):
        return LinearHead(classes, dim)
    return CosineHead(classes, dim, settings)
