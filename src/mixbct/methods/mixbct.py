"""MixBCT: one classification loss over a batch that mixes new and old features.

    L = (1/|G|) Σ_{g ∈ G} ℓ(g, y_g; W),    G = new features f_i and credible old features o_j

One W serves both kinds of row. Where a class's old features spread widely W settles so that
the new ones may too; where they are tight the new ones are held tight: the constraint adapts
itself to the old model. Source: Liang et al., "MixBCT", arXiv 2308.06948, sec. 3.

Three ways to draw the old rows of a step, with α = `ratio`:

    replace   forward all B images, then put old features in the place of
              |S| = min(⌊αB⌋, credible rows of the batch) of them. The published order. The replaced
              images have no loss of their own; they still shape the batch statistics.
    skip      choose S first and neither read nor forward those images. The same loss where the
              backbone has no batch normalisation, at about 1 − α of the cost.
    bank      forward all B images and add k = ⌊αB/(1 − α)⌋ old rows, drawn without replacement from
              the credible part of the whole bank. Every image trains the backbone once an epoch,
              and the old rows need not belong to images that still exist.

Beyond the paper, with `old_weight` = w, the loss is (1/B) Σ_new ℓ + (w/k) Σ_old ℓ: in one mean
over B + k rows the new ones, which alone train the backbone, count for 1 − α of what they
count for in any other method, which is a learning rate of 1 − α of theirs.

Beyond the paper, too, with `contrast` = λ > 0 and `bank` alone: each new feature is also contrasted
with old rows of the step,

    L + (λ/B) Σ_i −(1/|P_i|) Σ_{j ∈ P_i} log softmax_j (f̂_iᵀo_j/τ),    P_i = old rows of class y_i

over the old rows that are mixed, a partner for each new row and `negatives` more. A partner is a
credible old feature of the row's class, drawn at random, or with `partner = "own"` that of the same
image wherever it is credible. Mixing ties classes together through W; the contrast asks for the
right old feature before all others, which is what a search is judged by.

With `readout` = ρ > 0 as well, a linear map A, trained along, reads its partner off each new row,

    L + (ρ/B) Σ_i ‖A f̂_i/‖A f̂_i‖ − o_p(i)‖²,    p(i) = the partner of row i

so that f holds what the old model says of the image itself, where a bridge that is fitted
afterwards finds it, and yet need not lie there. A begins as the identity and is not deployed.

With `gallery_map`, old rows go through a linear map of their own before they are mixed or
contrasted, o_j + Δ o_j, normalised, with Δ = 0 at first and decayed towards it. It is trained by
the losses of the old rows themselves, on all classes of the new model, and stored rows are
searched through it; the readout reads o_j as it was.
"""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixbct.distributed import OLD_ROWS, PARTNERS, row_rng
from mixbct.errors import BankError, RecipeError
from mixbct.heads.classifier import Head
from mixbct.methods.method import (
    Features,
    Losses,
    Method,
    Progress,
    RowIndices,
    StepPlan,
    Task,
    given,
)
from mixbct.methods.nccl import contrastive_loss
from mixbct.recipe import MixBCTSettings


class MixBCT(Method):
    """The method in its three ways to draw.

    Raises:
        BankError: `replace` or `skip` with a bank that is not of the training images, or a bank
            with no credible row of a training class.
        RecipeError: `skip` would forward fewer than two images a step, or `replace` or `skip`
            are to contrast.
    """

    needs = frozenset({"old", "credible"})
    settings: MixBCTSettings

    def __init__(self, settings: MixBCTSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.old = given(task.old)
        # 0.7 is not a binary fraction: 0.7·30/0.3 must come out as 70
        ratio = Fraction(settings.ratio).limit_denominator(1_000_000)
        if settings.draw == "bank":
            self.old_rows_per_step = int(ratio * task.batch / (1 - ratio))
        else:
            self.old_rows_per_step = int(ratio * task.batch)
            if not self.old.paired:
                raise BankError(
                    f"method.draw = {settings.draw!r} needs the images' old features, but the bank "
                    "was not extracted from these training images: set method.draw = 'bank'"
                )
        if settings.draw == "skip" and task.batch - self.old_rows_per_step < max(
            2, task.world.size
        ):
            raise RecipeError(
                f"method.ratio = {settings.ratio} of train.batch = {task.batch} leaves fewer than "
                "two images to forward, too few for batch normalisation, or fewer than there are "
                "processes: lower method.ratio"
            )
        self._usable = given(self.old.credible) & (self.old.labels >= 0)
        self.candidates: RowIndices = np.flatnonzero(self._usable).astype(np.int64)
        if len(self.candidates) == 0 and (self.old_rows_per_step or settings.contrast):
            raise BankError(
                "the bank has no credible feature of any training class: do the class names of "
                "the bank and of the training data agree?"
            )
        if settings.contrast:
            if settings.draw != "bank":
                raise RecipeError(
                    f"method.contrast = {settings.contrast} needs old rows beside the batch, and "
                    f"method.draw = {settings.draw!r} has them in it: set method.draw = 'bank'"
                )
            if settings.partner == "own" and not self.old.paired:
                raise BankError(
                    "method.partner = 'own' takes the old feature of the same image, but the bank "
                    "was not extracted from these training images: extract it from them (`mixbct "
                    "extract` with the recipe's --split and --part), or set method.partner = "
                    "'class'"
                )
            labels = self.old.labels[self.candidates]
            self._by_class = self.candidates[np.argsort(labels, kind="stable")]
            self._counts = np.bincount(labels, minlength=int(task.labels.max()) + 1)
            self._starts = np.cumsum(self._counts) - self._counts
            self.there = nn.Buffer(torch.from_numpy(self._counts > 0), persistent=False)
        if settings.readout:
            if not settings.contrast:
                raise RecipeError(
                    "method.readout reads the partners of the contrast: set method.contrast as well"
                )
            self.reader = nn.Parameter(torch.eye(self._old_dim))
        if settings.gallery_map:
            if not (self.old_rows_per_step or settings.contrast):
                raise RecipeError(
                    "method.gallery_map is trained by the old rows' losses, and none takes part: "
                    "raise method.ratio, or set method.contrast"
                )
            self.shift = nn.Parameter(torch.zeros(self._old_dim, self._old_dim))

    @property
    def _old_dim(self) -> int:
        dim: int = self.old.read(self.candidates[:1]).shape[1]
        return dim

    def gallery_map(self) -> Float[Tensor, "d d"] | None:
        """Return a copy of the present map of old rows, in main memory."""
        if not self.settings.gallery_map:
            return None
        shift = self.shift.detach().cpu()
        return torch.eye(len(shift), dtype=shift.dtype) + shift

    def plan(self, seed: int, epoch: int, step: int) -> StepPlan:
        """Return the batch and the old rows that join it, or take the place of some."""
        rows = self.task.batch_rows(seed, epoch, step)
        rng = row_rng(seed, OLD_ROWS, epoch, step)
        if self.settings.draw == "bank":
            count = min(self.old_rows_per_step, len(self.candidates))
            # no shuffle: the order of the old rows does not matter, and it costs half the draw
            old_rows = self.candidates[
                rng.choice(len(self.candidates), count, replace=False, shuffle=False)
            ]
            if self.settings.contrast:
                further = self._contrasted(rows, row_rng(seed, PARTNERS, epoch, step))
                old_rows = np.concatenate([old_rows, further])
            return self.task.step(rows, old_rows)
        credible = np.flatnonzero(self._usable[rows])
        count = min(self.old_rows_per_step, len(credible))
        places = rng.choice(credible, count, replace=False)
        old_rows, kept = rows[places], np.delete(rows, places)
        forward = kept if self.settings.draw == "skip" else np.concatenate([kept, old_rows])
        return self.task.step(forward, old_rows, trained=len(kept))

    def _contrasted(self, rows: RowIndices, rng: np.random.Generator) -> RowIndices:
        """Return a partner for each row whose class has one, and rows of any class."""
        rows = rows[self._counts[self.task.labels[rows]] > 0]
        classes = self.task.labels[rows]
        places = (rng.random(len(classes)) * self._counts[classes]).astype(np.int64)
        partners = self._by_class[self._starts[classes] + places]
        if self.settings.partner == "own":
            partners = np.where(self._usable[rows], rows, partners)
        others = rng.integers(len(self.candidates), size=self.settings.negatives)
        return np.concatenate([partners, self.candidates[others]])

    def losses(self, new: Features, old: Features, head: Head, progress: Progress) -> Losses:
        """Return the mean classification loss over new and mixed rows, and the contrast."""
        stored = old
        if self.settings.gallery_map:
            old = replace(old, values=F.normalize(old.values + old.values @ self.shift))
        mixed = old
        if self.settings.draw == "bank":
            mixed = old.first(min(self.old_rows_per_step, len(self.candidates)))
        every = new.joined(mixed)
        rows = head(every.values, every.labels, every.counts)
        if self.settings.old_weight is None or not mixed.total:
            losses = {"mixed": rows.sum() / every.total}
        else:
            fresh = len(new.labels)
            losses = {
                "new": rows[:fresh].sum() / new.total,
                "old": self.settings.old_weight * rows[fresh:].sum() / mixed.total,
            }
        if self.settings.contrast:
            old = old.everywhere()
            similarities = F.normalize(new.values) @ old.values.t() / self.settings.temperature
            positive = new.labels[:, None] == old.labels
            apart = contrastive_loss(similarities, positive)
            losses["contrast"] = self.settings.contrast * apart.sum() / new.total
        if self.settings.readout:
            partners_of = stored.everywhere() if self.settings.gallery_map else old
            has, partners = self._partners(new, partners_of, mixed.total)
            read = F.normalize(F.normalize(new.values[has]) @ self.reader)
            losses["readout"] = self.settings.readout * (read - partners).square().sum() / new.total
        return losses

    def _partners(self, new: Features, old: Features, mixed: int) -> tuple[Tensor, Tensor]:
        """Return which new rows have a partner, and theirs; `old`: all rows, `mixed` ones first."""
        has = new.world.gather(self.there[new.labels].int(), new.counts)
        own = new.world.span(new.counts) if new.counts else slice(None)
        places = mixed - 1 + has.cumsum(0)[own]
        found = has[own].bool()
        return found, old.values[places[found]]
