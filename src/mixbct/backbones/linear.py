"""A linear map over the vectors of a frozen encoder: the smallest head."""

import torch
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
