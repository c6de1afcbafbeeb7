"""A linear map over the vectors of a frozen encoder: the smallest head."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LinearMap(nn.Module):
    """Map [B, inputs] to [B, dim] by one matrix, without bias.

    A rotation keeps the angles that the encoder learnt; a bias would not, since vectors are
    compared by their directions.

    Args:
        dim: of the embedding.
        inputs: dimension of the encoder's vectors.
    """

    def __init__(self, dim: int, inputs: int) -> None:
        super().__init__()
        self.map = nn.Linear(inputs, dim, bias=False)

    @torch.no_grad()
    def start_at(self, matrix: Float[Tensor, "inputs dim"]) -> None:
        """Take x ↦ x · matrix as the map."""
        self.map.weight.copy_(matrix.t())

    def forward(self, vectors: Float[Tensor, "b inputs"]) -> Float[Tensor, "b dim"]:
        """Return the raw embeddings."""
        out: Tensor = self.map(vectors)
        return out
