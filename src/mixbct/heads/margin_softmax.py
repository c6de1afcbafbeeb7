"""Margin softmax over many classes, with as few passes over its [N, C] logits as it takes.

    loss_i = −log softmax_y(s·cos_i),   cos_ij = f̂_i·Ŵ_j,   the own class's cosine moved by a margin

Written out step by step, autograd would keep and walk half a dozen [N, C] arrays, which takes as
long as the matrix products once C is in the thousands. Here the logits are made once, turned into
exponentials in place while they are in the processor's cache, and read twice more by the two
products of the gradient:

    ∂loss_i/∂cos_ij = s·p_ij,    and s·(p_iy − 1)·margin′(cos_iy) for the own class

Where the classes are shared out over processes, each has the logits of all rows and its own
classes. A row's largest logit, its sum of exponentials and its target are then made of every
process's part, and all else stays where it is (An et al., "Partial FC", ICCV workshops 2021). They
wait for each other three times: for the rows, for these three numbers a row, and in the backward
pass for the parts of the features' gradient.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mixbct.distributed import World
from mixbct.heads.workspace import Workspace

CACHED = 1 << 18
"""Numbers that stay in a processor's cache between one pass over them and the next."""
_SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class Margin:
    """How cosines become logits.

    Attributes:
        move: gives the own class's cosine its margin.
        size: of the margin, m.
        scale: s, which multiplies every logit.
    """

    move: Callable[[Float[Tensor, " n"], float], Float[Tensor, " n"]]
    size: float
    scale: float


@dataclass(frozen=True)
class Share:
    """What this process has of a step's rows and of the classes.

    Attributes:
        counts: how many rows each process has; none where there is one.
        owned: which classes are here.
        chosen: which of those the step looks at, counted from their first, in order; none: all.
        world: the processes.
    """

    counts: tuple[int, ...]
    owned: slice
    chosen: Int64[Tensor, " k"] | None
    world: World

    def places(
        self, labels: Int64[Tensor, " n"]
    ) -> tuple[Int64[Tensor, " n"], Bool[Tensor, " n"] | None]:
        """Return where rows' own classes stand in W here, and for which they do; none: for all."""
        owned = None
        if self.world.size > 1:
            owned = (labels >= self.owned.start) & (labels < self.owned.stop)
            labels = labels - self.owned.start
        if self.chosen is not None:
            labels = torch.searchsorted(self.chosen, labels)
        return labels if owned is None else labels.where(owned, 0), owned


def margin_losses(
    features: Float[Tensor, "n d"],
    weight: Float[Tensor, "k d"],
    labels: Int64[Tensor, " n"],
    margin: Margin,
    share: Share,
    workspace: Workspace,
) -> Float[Tensor, " n"]:
    """Return the cross-entropy of each row; gradients run through all of it, once.

    Args:
        features: of norm 1, this process's rows.
        weight: W of this process's classes, or of those chosen, of any norms; the cosines are with
            its normalised rows.
        labels: in [0, c), of all classes.
        margin: how cosines become logits.
        share: what of all rows and classes that is.
        workspace: where the logits are made, and W's gradient where classes were chosen, for the
            caller to give back.
    """
    losses: Tensor = _MarginSoftmax.apply(  # type: ignore[no-untyped-call]
        features, weight, labels, margin, share, workspace
    )
    return losses


class _MarginSoftmax(Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        labels: Tensor,
        margin: Margin,
        share: Share,
        workspace: Workspace,
    ) -> Tensor:
        ctx.scale, ctx.share, ctx.classes = margin.scale, share, len(weight)
        ctx.memory = workspace if share.chosen is not None else Workspace()
        features, labels = share.world.gather_labelled(features, labels, share.counts)
        labels, owned = share.places(labels)
        if not len(weight):  # a class that no row is near
            weight = weight.new_zeros(1, weight.shape[1])
        norms = torch.linalg.vector_norm(weight, dim=1).clamp_min_(_SMALLEST_NORM)
        lengths = norms.reciprocal_()
        # columns are divided by their norms in the cache, so that no copy of W is made
        logits = workspace.lend("logits", len(features), len(weight), features)
        torch.mm(features * margin.scale, weight.t(), out=logits)
        rows = torch.arange(len(labels), device=labels.device)
        # rounding can leave the cosine a hair outside [−1, 1]
        cosines = (logits[rows, labels] * lengths[labels] / margin.scale).clamp_(-1, 1)
        with torch.enable_grad():
            moved = margin.move(cosines.requires_grad_(), margin.size)
            (slopes,) = torch.autograd.grad(moved.sum(), cosines)
        targets = moved.detach() * margin.scale
        tops = torch.empty_like(targets)
        sums = torch.empty_like(targets)
        for part in parts(logits):
            each = logits[part].mul_(lengths)
            places = rows[: len(each)], labels[part]
            each[places] = _where(owned, part, targets[part], each[places])
            tops[part] = each.amax(1)
            # exponentials, each divided by its class's norm once they are summed
            sums[part] = each.sub_(tops[part][:, None]).exp_().sum(1)
            each.mul_(lengths)
        total = sums
        if owned is not None:
            if not ctx.classes:
                tops, sums = tops.fill_(-torch.inf), sums.zero_()
            targets = targets.where(owned, 0)
            tops, total, targets, units = _of_all(tops, sums, targets, share.world)
            sums = total / units
        # p_iy − 1 times the margin's slope, in units of the row's sum like the rest of the row
        chances = logits[rows, labels]
        inside = (chances - sums * lengths[labels]) * slopes
        logits[rows, labels] = _where(owned, slice(None), inside, chances)
        ctx.save_for_backward(features, weight, lengths, logits, sums)
        # a backward pass lets go of them, unless the graph is kept for another
        weakref.finalize(logits, workspace.give_back, "logits", logits.detach())
        losses = tops + total.log() - targets
        return losses[share.world.span(share.counts)] if share.counts else losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_losses: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, lengths, chances, sums = ctx.saved_tensors
        world, counts = ctx.share.world, ctx.share.counts
        of_features = of_weight = None
        if world.size > 1:
            # of each row its process alone knows what its loss is multiplied by
            own = world.span(counts)
            both = torch.cat([(chances @ weight) / sums[:, None], sums.new_zeros(len(sums), 1)], 1)
            both[own, -1] = of_losses
            both = world.reduce(both)
            of_features = both[own, :-1] * (of_losses * ctx.scale)[:, None]
            of_losses = both[:, -1]
        by_row = (of_losses * ctx.scale / sums)[:, None]
        if world.size == 1 and ctx.needs_input_grad[0]:
            of_features = (chances @ weight).mul_(by_row)
        if ctx.needs_input_grad[1]:
            of_weight = ctx.memory.lend("gradient", *weight.shape, weight)
            torch.mm(chances.t(), features * by_row, out=of_weight)
            for part in parts(of_weight):
                along = (of_weight[part] * weight[part]).sum(1) * lengths[part].square()
                of_weight[part].addcmul_(weight[part], along[:, None], value=-1)
            of_weight = of_weight[: ctx.classes]
        return of_features, of_weight, None, None, None, None


def _of_all(
    tops: Float[Tensor, " n"],
    sums: Float[Tensor, " n"],
    targets: Float[Tensor, " n"],
    world: World,
) -> tuple[Float[Tensor, " n"], ...]:
    """Return each row's top, sum and target over all classes, and what this process's sum counts.

    That is e^(its top − the top), and no less than the type's rounding error cubed: as much is no
    part of a sum, and what is divided by it stays finite.

    Args:
        tops: the largest logit among this process's classes.
        sums: of the exponentials of what its logits are above it.
        targets: the own class's logit, or 0 where it is not here.
        world: the processes.
    """
    every = tops.new_zeros(world.size, 3, len(tops))
    every[world.rank] = torch.stack([tops, sums, targets])
    tops, sums, targets = world.reduce(every).unbind(1)
    top = tops.amax(0)
    units = (tops - top).exp().clamp_min(torch.finfo(tops.dtype).eps ** 3)
    return top, (sums * units).sum(0), targets.sum(0), units[world.rank]


def _where(owned: Tensor | None, part: slice, one: Tensor, other: Tensor) -> Tensor:
    return one if owned is None else one.where(owned[part], other)


def parts(values: Float[Tensor, "n m"]) -> list[slice]:
    """Return slices of rows, at least one, each small enough to stay in a processor's cache."""
    rows = max(1, CACHED // values.shape[1] if values.device.type == "cpu" else len(values))
    return [slice(start, start + rows) for start in range(0, len(values) or 1, rows)]
