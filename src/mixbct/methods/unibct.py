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
from mixbct.methods.bct import Influence
from mixbct.methods.independent import classification
from mixbct.methods.method import Extract, Features, Losses, Method, Progress, Task, given
from mixbct.recipe import UniBCTSettings

ROWS = 8192
"""About as many images are looked at together."""


def refined_means(
    new: Float[Tensor, "k n d"], old: Float[Tensor, "k n e"], settings: UniBCTSettings
) -> Float[Tensor, "k e"]:
    """Return the mean of each class's old features, spread over the graph of its new ones.

    Args:
        new: raw new features of the images of k classes, n of each.
        old: normalised old features of the same images.
        settings: λ, τ, and "rows" for the row softmax of cosines or "columns" for the column
            softmax of inner products.
    """
    count = new.shape[1]
    if count == 1:
        return old[:, 0]
    by_rows = settings.graph == "rows"
    vertices = F.normalize(new, dim=2) if by_rows else new
    similarities = vertices @ vertices.mT / settings.temperature
    similarities.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    edges = similarities.softmax(dim=2 if by_rows else 1)
    system = torch.eye(count, dtype=new.dtype) - settings.spread * edges
    moved: Tensor = (1 - settings.spread) * torch.linalg.solve(system, old)
    return moved.mean(dim=1)


class UniBCT(Method):
    """BCT with structural prototype refinement."""

    needs = frozenset({"old", "paired_old", "prototypes"})
    settings: UniBCTSettings

    def __init__(self, settings: UniBCTSettings, task: Task) -> None:
        super().__init__(settings, task)
        means = given(task.prototypes)
        self.influence = Influence(means.values.clone(), means.known, task.world, persistent=True)
        self.rows = np.argsort(task.labels, kind="stable")
        self.counts = np.bincount(task.labels)
        self.starts = np.cumsum(self.counts) - self.counts

    def on_epoch(self, epoch: int, extract: Extract) -> None:
        """Refine the prototypes by the present new features, at the epochs chosen."""
        if epoch not in self.settings.refresh:
            return
        old, world = given(self.task.old), self.task.world
        refined = torch.zeros_like(self.influence.directions)
        # classes with equally many images are solved together, and dealt out to the processes
        for count in np.unique(self.counts):
            classes = np.flatnonzero(self.counts == count)[world.rank :: world.size]
            together = max(1, ROWS // count)
            for chosen in (classes[i : i + together] for i in range(0, len(classes), together)):
                rows = self.rows[self.starts[chosen, None] + np.arange(count)]
                new_side, old_side = (
                    values.double().reshape(*rows.shape, -1)
                    for values in (extract(rows.ravel()), torch.from_numpy(old.read(rows.ravel())))
                )
                means = refined_means(new_side, old_side, self.settings)
                refined[torch.from_numpy(chosen)] = means.to(refined)
        self.influence.directions.copy_(world.reduce(refined))

    def losses(self, new: Features, old: Features, head: Head, progress: Progress) -> Losses:
        """Return the classification loss and, from epoch `start`, that under the prototypes."""
        losses = {"classification": classification(new, head)}
        if progress.epoch >= self.settings.start:
            rows = self.influence(new, cosine_scale(head))
            losses["influence"] = self.settings.weight * rows.sum() / new.total
        return losses
