"""Independent training: the classification loss alone.

The oracle of the self-test, and in the cross-test what a naive swap of models would give.
"""

from torch import Tensor

from mixbct.heads.classifier import Head
from mixbct.methods.method import Features, Losses, Method, Progress


def classification(new: Features, head: Head) -> Tensor:
    """Return this process's share of (1/B) Σ ℓ(f_i, y_i; W) over the rows of all."""
    loss: Tensor = head(new.values, new.labels, new.counts).sum() / new.total
    return loss


class Independent(Method):
    """L = (1/B) Σ ℓ(f_i, y_i; W)."""

    def losses(self, new: Features, old: Features, head: Head, progress: Progress) -> Losses:
        """Return the mean classification loss."""
        return {"classification": classification(new, head)}
