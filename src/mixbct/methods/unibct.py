"""UniBCT: BCT under prototypes that the new features' neighbourhoods have refined.

    L = (1/B) Σ ℓ(f_i, y_i; W) + (λ_w/B) Σ ℓ₀(f_i, y_i; P)              (ℓ₀ as in `bct`)

Within each class, over its images: A is the row softmax of f̂f̂ᵀ/τ without the diagonal, the old
features o are spread over that graph, and P_c is their mean:

    o ← (1 − λ)(I − λA)⁻¹ o,    P_c = mean o

so an old feature far from its class's images counts less. A class with one image keeps its
feature. Source: Zhang et al., "Towards Universal Backward-Compatible Representation Learning",
IJCAI 2022, eq. 8 to 10. Until the first refresh P_c is the normalised mean old feature.

The published code takes a column softmax of features that are not normalised
(`graph = "columns"`) and begins with the influence loss, and with the one refresh, at epoch 10
(`start = 10`, `refresh = [10]`).
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mixbct.heads.classifier import Head, cosine_scale
from mixbct.methods.bct import influence
from mixbct.methods.independent import classification
from mixbct.methods.method import Extract, Features, Losses, Method, Progress, Task, given
from mixbct.recipe import UniBCTSettings


def refined_mean(
    new: Float[Tensor, "n d"], old: Float[Tensor, "n e"], settings: UniBCTSettings
) -> Float[Tensor, " e"]:
    """Return the mean of one class's old features, spread over the graph of its new ones.

    Args:
        new: raw new features of the class's images.
        old: normalised old features of the same images.
        settings: λ, τ, and "rows" for the row softmax of cosines or "columns" for the column
            softmax of inner products.
    """
    if len(new) == 1:
        return old[0]
    by_rows = settings.graph == "rows"
    vertices = F.normalize(new) if by_rows else new
    similarities = vertices @ vertices.t() / settings.temperature
    similarities.fill_diagonal_(-torch.inf)
    edges = similarities.softmax(dim=1 if by_rows else 0)
    system = torch.eye(len(new), dtype=new.dtype) - settings.spread * edges
    moved: Tensor = (1 - settings.spread) * torch.linalg.solve(system, old)
    return moved.mean(dim=0)


class UniBCT(Method):
    """BCT with structural prototype refinement."""

    needs = frozenset({"old", "paired_old", "prototypes"})
    settings: UniBCTSettings
    directions: Tensor
    known: Tensor

    def __init__(self, settings: UniBCTSettings, task: Task) -> None:
        super().__init__(settings, task)
        means = given(task.prototypes)
        self.register_buffer("directions", means.values.clone())
        self.register_buffer("known", means.known, persistent=False)
        order = np.argsort(task.labels, kind="stable")
        cuts = np.flatnonzero(np.diff(task.labels[order])) + 1
        self.rows_of_classes = np.split(order, cuts)

    def on_epoch(self, epoch: int, extract: Extract) -> None:
        """Refine the prototypes by the present new features, at the epochs chosen."""
        if epoch not in self.settings.refresh:
            return
        old, new = given(self.task.old), extract()
        for rows in self.rows_of_classes:
            own = torch.from_numpy(old.read(rows)).double()
            mean = refined_mean(new[rows].double(), own, self.settings)
            self.directions[self.task.labels[rows[0]]] = mean.to(self.directions)

    def losses(self, new: Features, old: Features, head: Head, progress: Progress) -> Losses:
        """Return the classification loss and, from epoch `start`, that under the prototypes."""
        losses = {"classification": classification(new, head)}
        if progress.epoch >= self.settings.start:
            rows = influence(
                new.values, new.labels, self.directions, self.known, cosine_scale(head)
            )
            losses["influence"] = self.settings.weight * rows.sum() / len(rows)
        return losses
