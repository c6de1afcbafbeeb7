"""A linear map with a residual branch of one hidden layer, over the vectors of a frozen encoder.

    x ↦ W x + w + B gelu(A x + a)

B is zero at first (and w, unless a start gives one), so that the head begins as its linear map,
wherever that was started, and the branch earns its place. No normalisation of a batch: that would
undo the start.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixbct.backbones.linear import LinearBackbone


class ResidualMap(LinearBackbone):
    """Map [B, inputs] to [B, dim].

    Args:
        dim: of the embedding.
        inputs: dimension of the encoder's vectors.
        width: of the hidden layer; twice the inputs where not given.
    """

    def __init__(self, dim: int, inputs: int, width: int | None = None) -> None:
        super().__init__(dim, inputs)
        hidden = width or 2 * inputs
        self.hidden = nn.Linear(inputs, hidden)
        self.branch = nn.Linear(hidden, dim, bias=False)
        nn.init.zeros_(self.branch.weight)

    def forward(self, vectors: Float[Tensor, "b inputs"]) -> Float[Tensor, "b dim"]:
        """Return the raw embeddings."""
        out: Tensor = super().forward(vectors) + self.branch(F.gelu(self.hidden(vectors)))
        return out
