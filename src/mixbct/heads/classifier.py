"""Classification heads: features and labels in, one loss a row out.

A loss a row (and not a mean) is what lets a method weigh rows, mix old ones in, and divide by
the number of rows of all processes. Each process owns the weights of some classes, [start, stop),
and sees the features of all rows: the losses and every gradient are those of one process.
"""

import contextlib
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer

from mixbct.distributed import ALONE, World
from mixbct.errors import RecipeError
from mixbct.heads.margin_softmax import Margin, Share, margin_losses, parts
from mixbct.heads.margins import arcface, cosface
from mixbct.heads.workspace import Workspace
from mixbct.recipe import ArcFaceSettings, CosFaceSettings, HeadSettings, SoftmaxSettings

RowLosses = Float[Tensor, " n"]
Counts = tuple[int, ...]
"""How many rows each process has; none where there is one."""


class CosineHead(nn.Module):
    """Margin softmax over cosines: features and class weights are both normalised.

    Args:
        classes: number of classes C.
        dim: of the features.
        settings: which margin, m; s, which multiplies every logit.
        world: the processes that own the weights, [C/size, D] each.
    """

    def __init__(
        self,
        classes: int,
        dim: int,
        settings: ArcFaceSettings | CosFaceSettings,
        world: World = ALONE,
    ) -> None:
        super().__init__()
        self.world, self.owned = world, world.span(world.counts(classes))
        self.weight = nn.Parameter((torch.randn(classes, dim) * 0.01)[self.owned].clone())
        self.settings = settings
        move = arcface if isinstance(settings, ArcFaceSettings) else cosface
        self.margin = Margin(move, settings.margin, settings.scale)
        self.chosen: Int64[Tensor, " k"] | None = None
        self._rows: Tensor | None = None
        self._workspace = Workspace()

    def choose(self, classes: Int64[Tensor, " m"]) -> None:
        """Let the next step look at some classes alone, and learn those.

        Args:
            classes: in order; with all those of the rows.
        """
        # a slice of what a GPU can fetch by itself is that, too
        first, last = torch.searchsorted(classes, torch.tensor([self.owned.start, self.owned.stop]))
        own = classes[first:last].to(self.weight.device, non_blocking=classes.is_pinned())
        self.chosen = own - self.owned.start
        weight = self.weight.detach()
        rows = self._workspace.lend("rows", len(self.chosen), weight.shape[1], weight)
        self._rows = torch.index_select(weight, 0, self.chosen, out=rows).requires_grad_()

    @property
    def present(self) -> Float[Tensor, "k d"]:
        """Return this process's class weights that the step looks at."""
        weight: Tensor = self.weight if self._rows is None else self._rows
        return weight

    def forward(
        self, features: Float[Tensor, "n d"], labels: Int64[Tensor, " n"], counts: Counts = ()
    ) -> RowLosses:
        """Return the cross-entropy of each row, over all classes or those that were chosen."""
        share = Share(counts, self.owned, self.chosen, self.world)
        unit = F.normalize(features)
        return margin_losses(unit, self.present, labels, self.margin, share, self._workspace)

    @contextlib.contextmanager
    def updated_by(self, optimizer: Optimizer) -> Iterator[None]:
        """Let a step of the optimiser touch the chosen rows alone, its memory of them included.

        Each part of the rows is shown to it as if it were all of W, and written back while it is
        in the processor's cache: the last one inside the context, the others before. The rows'
        gradient is memory of the next step after it.
        """
        if self.chosen is None or self._rows is None:
            yield
            return
        weight, gradient, state = self.weight, self._rows.grad, optimizer.state[self.weight]
        before, whole, groups = {**state}, {"": weight.data, **state}, optimizer.param_groups
        shape, pieces = weight.shape, parts(self._rows)
        own = next(each for each in groups if any(p is weight for p in each["params"]))
        optimizer.param_groups = [{**own, "params": [weight]}]
        for part in pieces:
            chosen = self.chosen[part]
            weight.data = self._rows.detach()[part]
            weight.grad = None if gradient is None else gradient[part]
            state.clear()
            for name, old in before.items():
                state[name] = old.index_select(0, chosen) if old.shape == shape else old.clone()
            if part is pieces[-1]:
                optimizer.param_groups = groups
                yield
            else:
                optimizer.step()
            for name, rows in {"": weight.data, **state}.items():
                if rows.shape == weight.shape:
                    if name not in whole:  # the optimiser's first step
                        whole[name] = rows.new_zeros(shape)
                    _put(whole[name], chosen, rows)
        weight.grad, weight.data = None, whole.pop("")
        state.update({k: v for k, v in whole.items() if v.shape == shape})
        self._workspace.give_back("rows", self._rows)
        self._workspace.give_back("gradient", gradient)
        self.chosen = self._rows = None


def sample_classes(
    labels: Int64[Tensor, " n"], classes: int, share: float, generator: torch.Generator
) -> Int64[Tensor, " k"]:
    """Return all classes of `labels` and random others, in order: ⌈share·classes⌉, or n if more.

    Source: An et al., "Partial FC", ICCV workshops 2021.
    """
    # whoever has a label is drawn first
    luck = torch.rand(classes, dtype=torch.float32, generator=generator)
    luck[labels] = 2.0
    wanted = min(max(math.ceil(share * classes), len(labels)), classes)
    chosen: Tensor = luck.topk(wanted, sorted=False).indices.sort().values
    return chosen


def _put(
    whole: Float[Tensor, "c d"], chosen: Int64[Tensor, " k"], rows: Float[Tensor, "k d"]
) -> None:
    """Write rows into the places chosen."""
    if whole.device.type == "cpu":  # torch's own takes twice as long, numbers instead of rows 1.5
        row = f"V{whole.shape[1] * whole.element_size()}"
        whole.numpy().view(row)[chosen.numpy()] = rows.numpy().view(row)
    else:
        whole.index_copy_(0, chosen, rows)


class LinearHead(nn.Module):
    """A linear classifier with bias over raw features; it is dropped before extraction.

    Args: as of `CosineHead`.
    """

    def __init__(self, classes: int, dim: int, world: World = ALONE) -> None:
        super().__init__()
        self.world, self.owned = world, world.span(world.counts(classes))
        self.weight = nn.Parameter((torch.randn(classes, dim) * 0.01)[self.owned].clone())
        self.bias = nn.Parameter(torch.zeros(len(self.weight)))

    def forward(
        self, features: Float[Tensor, "n d"], labels: Int64[Tensor, " n"], counts: Counts = ()
    ) -> RowLosses:
        """Return the cross-entropy of each row."""
        world = self.world
        values, labels = world.gather_labelled(features, labels, counts)
        logits = F.linear(values, self.weight, self.bias)
        if world.size == 1:
            return F.cross_entropy(logits, labels, reduction="none")
        # of a row's class, some process has the logit; one without a class has next to none
        logits = F.pad(logits, (0, 1), value=torch.finfo(logits.dtype).min)
        places, owned = Share(counts, self.owned, None, world).places(labels)
        assert owned is not None
        own = logits.gather(1, places[:, None])[:, 0].where(owned, 0)
        # above its top, so that what all logits have in common costs no precision
        tops = logits.detach().amax(1)
        every = logits.new_zeros(world.size, 3, len(labels))
        every[world.rank] = torch.stack([tops, (logits - tops[:, None]).logsumexp(1), own])
        tops, sums, targets = world.sum(every).unbind(1)
        top = tops.detach().amax(0)
        losses: Tensor = (sums + (tops.detach() - top)).logsumexp(0) - (targets.sum(0) - top)
        return losses[world.span(counts)]


Head = CosineHead | LinearHead


def cosine_scale(head: Head) -> float:
    """Return what a head multiplies its cosines by.

    Raises:
        RecipeError: it has no cosines.
    """
    if isinstance(head, LinearHead):
        raise RecipeError(
            "this method needs a head over cosines: set head.name to 'arcface' or 'cosface'"
        )
    return head.settings.scale


def build_head(settings: HeadSettings, classes: int, dim: int, world: World = ALONE) -> Head:
    """Build the head that a recipe names."""
    if isinstance(settings, SoftmaxSettings):
        return LinearHead(classes, dim, world)
    return CosineHead(classes, dim, settings, world)
