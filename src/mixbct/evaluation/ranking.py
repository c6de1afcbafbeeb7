"""Average precision and the rank of the first correct item, with ties handled as one step."""

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor


def average_precision(
    genuine: Float32[Tensor, "b p"], impostor: Float32[Tensor, "b g"]
) -> Float64[Tensor, " b"]:
    """Return each query's average precision: the mean over its genuine items of precision there.

    AP = (1/P) Σ_s P(s) / N(s), where P(s) and N(s) count the genuine and all items that score
    at least s. Items that tie enter together, so their order cannot matter (as scikit-learn's
    `average_precision_score`).

    Args:
        genuine: scores of genuine pairs, each row ascending, −inf where there is none.
        impostor: scores of impostor pairs, each row ascending, −inf where there is none.

    Returns:
        [b] in [0, 1]; NaN for a query with no genuine item.
    """
    present = genuine > -torch.inf
    genuine_at_least = genuine.shape[1] - torch.searchsorted(genuine, genuine)
    impostor_at_least = impostor.shape[1] - torch.searchsorted(impostor, genuine)
    precision = genuine_at_least.double() / (genuine_at_least + impostor_at_least)
    return (precision * present).sum(dim=1) / present.sum(dim=1)


def first_correct_rank(
    genuine: Float32[Tensor, "b p"], impostor: Float32[Tensor, "b g"]
) -> Int64[Tensor, " b"]:
    """Return the rank of the first genuine item, from 1: impostors that tie with it come first.

    Args:
        genuine: as for `average_precision`.
        impostor: as for `average_precision`.

    Returns:
        [b]; 0 for a query with no genuine item.
    """
    best = genuine[:, -1:].contiguous()
    ahead = impostor.shape[1] - torch.searchsorted(impostor, best)[:, 0]
    return torch.where(best[:, 0] > -torch.inf, ahead + 1, 0)
