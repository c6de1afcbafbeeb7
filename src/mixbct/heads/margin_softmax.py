"""Margin softmax over many classes, with as few passes over its [N, C] logits as it takes.

    loss_i = −log softmax_y(s·cos_i),   cos_ij = f̂_i·Ŵ_j,   the own class's cosine moved by a margin

Written out step by step, autograd would keep and walk half a dozen [N, C] arrays, which takes as
long as the matrix products once C is in the thousands. Here the logits are made once, turned into
exponentials in place while they are in the processor's cache, and read twice more by the two
products of the gradient:

    ∂loss_i/∂cos_ij = s·p_ij,    and s·(p_iy − 1)·margin′(cos_iy) for the own class

Where the classes are shared out over processes, each has the logits of all rows and its own
classes. A row's largest logit, its sum of exponentials and its target are then made of every
process's part, and all else stays where it is (An et al., "Partial FC", ICCV workshops 2021).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.distributed import ReduceOp

from mixbct.distributed import ALONE, World

Margin = Callable[[Float[Tensor, " n"], float], Float[Tensor, " n"]]

CACHED = 1 << 20
"""Numbers that stay in a processor's cache between one pass over them and the next."""
_SMALLEST_NORM = 1e-12


def margin_softmax(
    features: Float[Tensor, "n d"],
    weight: Float[Tensor, "c d"],
    labels: Int64[Tensor, " n"],
    margin_function: Margin,
    margin: float,
    scale: float,
    world: World = ALONE,
    owned: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, " n"]:
    """Return the cross-entropy of each row; gradients run through all of it, once.

    Args:
        features: of norm 1. In a world of several processes, the rows of all of them.
        weight: W, of any norms; the cosines are with its normalised rows. Those of this process.
        labels: in [0, c), where the own class stands in this process's W.
        margin_function: moves the own class's cosine, by `margin`.
        margin: m.
        scale: s.
        world: the processes that have a part of W each.
        owned: which rows have their own class in this process's part; others' labels are not
            looked at. None: all.
    """
    losses: Tensor = _MarginSoftmax.apply(  # type: ignore[no-untyped-call]
        features, weight, labels, margin_function, margin, scale, world, owned
    )
    return losses


class _MarginSoftmax(Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        labels: Tensor,
        margin_function: Margin,
        margin: float,
        scale: float,
        world: World,
        owned: Tensor | None,
    ) -> Tensor:
        ctx.scale, ctx.world, ctx.classes = scale, world, len(weight)
        if not len(weight):  # a class that no row is near
            weight = weight.new_zeros(1, weight.shape[1])
        norms = torch.linalg.vector_norm(weight, dim=1, keepdim=True).clamp_min_(_SMALLEST_NORM)
        directions = weight / norms
        logits = (features * scale) @ directions.t()
        if not ctx.classes:
            logits.fill_(-torch.inf)
        rows = torch.arange(len(labels), device=labels.device)
        own = logits[rows, labels]
        if owned is not None:
            own = world.reduce(own.where(owned, 0))
        # rounding can leave the cosine a hair outside [−1, 1]
        cosines = (own / scale).clamp_(-1, 1)
        with torch.enable_grad():
            moved = margin_function(cosines.requires_grad_(), margin)
            (slopes,) = torch.autograd.grad(moved.sum(), cosines)
        targets = moved.detach() * scale
        logits[rows, labels] = _where(owned, targets, logits[rows, labels])
        tops = torch.empty_like(targets)
        sums = torch.empty_like(targets)
        if world.size > 1:
            tops = world.reduce(logits.amax(1), ReduceOp.MAX)
        for part in _parts(logits):
            if world.size == 1:
                tops[part] = logits[part].amax(1)
            logits[part].sub_(tops[part, None]).exp_()
            sums[part] = logits[part].sum(1)
        sums = world.reduce(sums)
        # p_iy − 1 times the margin's slope, in units of the row's sum like the rest of the row
        share = logits[rows, labels]
        logits[rows, labels] = _where(owned, (share - sums) * slopes, share)
        ctx.save_for_backward(features, directions, norms, logits, sums)
        return tops + sums.log() - targets

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_losses: Tensor) -> tuple[Tensor | None, ...]:
        features, directions, norms, shares, sums = ctx.saved_tensors
        # each process has those of its own rows
        of_losses = ctx.world.reduce(of_losses.clone()) if ctx.world.size > 1 else of_losses
        by_row = (of_losses * ctx.scale / sums)[:, None]
        of_features = of_weight = None
        if ctx.needs_input_grad[0]:
            of_features = (shares @ directions).mul_(by_row)
        if ctx.needs_input_grad[1]:
            of_weight = shares.t() @ (features * by_row)
            for part in _parts(of_weight):
                along = (of_weight[part] * directions[part]).sum(1, keepdim=True)
                of_weight[part].addcmul_(directions[part], along, value=-1).div_(norms[part])
            of_weight = of_weight[: ctx.classes]
        return of_features, of_weight, None, None, None, None, None, None


def _where(owned: Tensor | None, one: Tensor, other: Tensor) -> Tensor:
    return one if owned is None else one.where(owned, other)


def _parts(values: Float[Tensor, "n m"]) -> list[slice]:
    """Return slices of rows, each small enough to stay in a processor's cache."""
    rows = max(1, CACHED // values.shape[1] if values.device.type == "cpu" else len(values))
    return [slice(start, start + rows) for start in range(0, len(values), rows)]
