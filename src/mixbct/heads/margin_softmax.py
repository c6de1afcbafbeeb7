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

import weakref
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.distributed import ReduceOp

from mixbct.distributed import ALONE, World
from mixbct.heads.workspace import Workspace

Margin = Callable[[Float[Tensor, " n"], float], Float[Tensor, " n"]]

CACHED = 1 << 18
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
    workspace: Workspace | None = None,
    lend_gradient: bool = False,
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
        workspace: where the logits are made.
        lend_gradient: make W's gradient there, too, for the caller to give back.
    """
    losses: Tensor = _MarginSoftmax.apply(  # type: ignore[no-untyped-call]
        *(features, weight, labels, margin_function, margin, scale, world, owned),
        workspace or Workspace(),
        lend_gradient,
    )
    return losses


def margin_losses(
    features: Float[Tensor, "n d"],
    weight: Float[Tensor, "k d"],
    labels: Int64[Tensor, " n"],
    counts: tuple[int, ...],
    owned: slice,
    world: World,
    margin_function: Margin,
    margin: float,
    scale: float,
    workspace: Workspace,
    chosen: Int64[Tensor, " k"] | None = None,
) -> Float[Tensor, " n"]:
    """Return `margin_softmax` of this process's rows over the classes of all processes.

    Args:
        features: of norm 1, this process's rows.
        weight: W of this process's classes, or of those chosen.
        labels: of all classes.
        counts: how many rows each process has; none where there is one.
        owned: which classes are this process's.
        world: the processes.
        margin_function: see `margin_softmax`, as `margin`, `scale` and `workspace`.
        chosen: which of its classes the step looks at, in order; None: all.
    """
    values, labels = world.gather(features, counts), world.gather(labels, counts)
    within = None
    if world.size > 1:
        within = (labels >= owned.start) & (labels < owned.stop)
        labels = labels - owned.start
    if chosen is not None:
        labels = torch.searchsorted(chosen, labels)
    if within is not None:
        labels = labels.where(within, 0)
    losses = margin_softmax(
        *(values, weight, labels, margin_function, margin, scale, world, within, workspace),
        lend_gradient=chosen is not None,
    )
    return losses[world.span(counts)] if counts else losses


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
        workspace: Workspace,
        lend_gradient: bool,
    ) -> Tensor:
        ctx.scale, ctx.world, ctx.classes = scale, world, len(weight)
        ctx.memory = workspace if lend_gradient else Workspace()
        if not len(weight):  # a class that no row is near
            weight = weight.new_zeros(1, weight.shape[1])
        norms = torch.linalg.vector_norm(weight, dim=1).clamp_min_(_SMALLEST_NORM)
        lengths = norms.reciprocal_()
        # columns are divided by their norms in the cache, so that no copy of W is made
        logits = workspace.lend("logits", len(features), len(weight), features)
        torch.mm(features * scale, weight.t(), out=logits)
        if not ctx.classes:
            logits.fill_(-torch.inf)
        rows = torch.arange(len(labels), device=labels.device)
        own = logits[rows, labels] * lengths[labels]
        if owned is not None:
            own = world.reduce(own.where(owned, 0))
        # rounding can leave the cosine a hair outside [−1, 1]
        cosines = (own / scale).clamp_(-1, 1)
        with torch.enable_grad():
            moved = margin_function(cosines.requires_grad_(), margin)
            (slopes,) = torch.autograd.grad(moved.sum(), cosines)
        targets = moved.detach() * scale
        tops = torch.empty_like(targets)
        sums = torch.empty_like(targets)
        pieces = parts(logits)
        for part in pieces:
            each = logits[part].mul_(lengths)
            places = rows[: len(each)], labels[part]
            each[places] = _where(owned, part, targets[part], each[places])
            tops[part] = each.amax(1)
            if world.size == 1:
                sums[part] = _shares(each, tops[part], lengths)
        if world.size > 1:
            tops = world.reduce(tops, ReduceOp.MAX)
            for part in pieces:
                sums[part] = _shares(logits[part], tops[part], lengths)
            sums = world.reduce(sums)
        # p_iy − 1 times the margin's slope, in units of the row's sum like the rest of the row
        share = logits[rows, labels]
        inside = (share - sums * lengths[labels]) * slopes
        logits[rows, labels] = _where(owned, slice(None), inside, share)
        ctx.save_for_backward(features, weight, lengths, logits, sums)
        # a backward pass lets go of them, unless the graph is kept for another
        weakref.finalize(logits, workspace.give_back, "logits", logits.detach())
        return tops + sums.log() - targets

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_losses: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, lengths, shares, sums = ctx.saved_tensors
        # each process has those of its own rows
        of_losses = ctx.world.reduce(of_losses.clone()) if ctx.world.size > 1 else of_losses
        by_row = (of_losses * ctx.scale / sums)[:, None]
        of_features = of_weight = None
        if ctx.needs_input_grad[0]:
            of_features = (shares @ weight).mul_(by_row)
        if ctx.needs_input_grad[1]:
            of_weight = ctx.memory.lend("gradient", *weight.shape, weight)
            torch.mm(shares.t(), features * by_row, out=of_weight)
            for part in parts(of_weight):
                along = (of_weight[part] * weight[part]).sum(1) * lengths[part].square()
                of_weight[part].addcmul_(weight[part], along[:, None], value=-1)
            of_weight = of_weight[: ctx.classes]
        return of_features, of_weight, *[None] * 8


def _shares(
    logits: Float[Tensor, "n c"], tops: Float[Tensor, " n"], lengths: Float[Tensor, " c"]
) -> Float[Tensor, " n"]:
    """Turn logits into exponentials, return their sums, and divide each by its class's norm."""
    logits.sub_(tops[:, None]).exp_()
    sums = logits.sum(1)
    logits.mul_(lengths)
    return sums


def _where(owned: Tensor | None, part: slice, one: Tensor, other: Tensor) -> Tensor:
    return one if owned is None else one.where(owned[part], other)


def parts(values: Float[Tensor, "n m"]) -> list[slice]:
    """Return slices of rows, at least one, each small enough to stay in a processor's cache."""
    rows = max(1, CACHED // values.shape[1] if values.device.type == "cpu" else len(values))
    return [slice(start, start + rows) for start in range(0, len(values) or 1, rows)]
