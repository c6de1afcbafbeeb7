"""Heads over the vectors of a frozen encoder: a linear map, alone or with a residual branch."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LinearBackbone(nn.Module):
    """Map [B, inputs] to [B, dim] by one matrix and a bias, which is zero unless a start gives one.

    The bias reaches an old space whose vectors lie in a narrow cone, where no rotation of vectors
    around the origin comes: on faces a map without one lost most of its true accepts
    (docs/results/faces.md).

    Args:
        dim: of the embedding.
        inputs: dimension of the encoder's vectors.
    """

    def __init__(self, dim: int, inputs: int) -> None:
        super().__init__()
        self.map = nn.Linear(inputs, dim)
        nn.init.zeros_(self.map.bias)

    @torch.no_grad()
    def start_at(self, matrix: Float[Tensor, "inputs dim"], offset: Float[Tensor, " dim"]) -> None:
        """Take x ↦ x · matrix + offset as the map."""
        self.map.weight.copy_(matrix.t())
        self.map.bias.copy_(offset)

    def forward(self, vectors: Float[Tensor, "b inputs"]) -> Float[Tensor, "b dim"]:
        """Return the raw embeddings."""
        out: Tensor = self.map(vectors)
        return out


class ResidualMap(LinearBackbone):
    """Map [B, inputs] to [B, dim] by a linear map with a residual branch of one hidden layer.

        x ↦ W x + w + B gelu(A x + a)

    B is zero at first (and w, unless a start gives one), so that the head begins as its linear map,
    wherever that was started, and the branch earns its place. No normalisation of a batch: that
    would undo the start.

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
