"""One training loop for every method.

    plan → this process's share of it → read images and old features ahead → augment → forward
         → the method's losses → backward → clip the backbone → step → log, checkpoint

A plan is of all processes together, so what is trained does not depend on how many there are (but
see `objective`, of batch normalisation). Everything random is a pure function of the recipe's seed
and of the step, so the same recipe gives the same weights bit for bit on one machine, and a run
that was stopped or killed goes on as if it had not been.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from mixbct.backbones.model import Batch, build_backbone, to_inputs
from mixbct.data.augment import augment
from mixbct.data.loader import read_ahead
from mixbct.data.source import Items, Source
from mixbct.distributed import ALONE, AUGMENT, SAMPLE, STEP, World, default_dtype, torch_rng
from mixbct.heads.classifier import CosineHead, Head, build_head, sample_classes
from mixbct.methods import METHODS, Features, Method, Progress
from mixbct.methods.mapped import Mapped
from mixbct.methods.method import RowIndices, given
from mixbct.recipe import CompatibleSettings, Recipe, SoftmaxSettings, TrainSettings
from mixbct.schemas.bridge import TRAINED, Bridge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import Contract, VectorInput
from mixbct.training.checkpoint import CheckpointManifest, State
from mixbct.training.log import StepReport
from mixbct.training.objective import Objective, average_statistics, check_used, shared_out
from mixbct.training.start import HeadStart, start_at_adapter
from mixbct.training.task import input_of, inputs_digest, open_task

OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {"sgd": SGD, "adamw": AdamW}
"""By the name that a recipe gives them; its settings are their arguments."""


@dataclass(frozen=True)
class _Batch:
    """What this process does of a step."""

    items: Batch
    labels: Int64[Tensor, " trained"]
    counts: tuple[int, ...]
    """How many labels each process has."""
    old: Features
    forwarded: int
    """By all processes."""
    classes: Int64[Tensor, " k"] | None
    """Those that the heads look at; none: all."""


class Trainer:
    """A run: everything that a recipe names, built and ready to step.

    Args:
        recipe: what to train.
        source: the training images, or the vectors of a bank; labels without gaps.
        world: the processes that train together.
    """

    def __init__(self, recipe: Recipe, source: Source, world: World = ALONE) -> None:
        if recipe.train.threads:
            torch.set_num_threads(recipe.train.threads)
        torch.set_flush_denormal(True)
        torch.manual_seed(recipe.seed)
        self.recipe, self.source, self.world = recipe, source, world
        self.dtype = torch.float64 if recipe.train.precision == "float64" else torch.float32
        self.device = world.open_device(recipe.train.device, self.dtype)
        self.takes = input_of(recipe, source)
        self.bank, task, self.old_part = open_task(recipe, source, world)
        self.old = task.old
        self.inputs_digest = inputs_digest(source, self.takes, self.bank, task)
        self.steps_per_epoch = task.steps_per_epoch
        self.steps = task.steps_per_epoch * recipe.train.epochs
        self.old_dim = recipe.model.dim if self.bank is None else self.bank.manifest.dim
        classes = len(source.classes())
        # even first weights that are drawn as float32 differ in their last bit between processors
        with default_dtype(self.dtype):
            self.backbone: nn.Module = build_backbone(
                recipe.model.backbone, recipe.model.dim, self.takes, recipe.model.options
            )
            self.head: Head = build_head(recipe.head, classes, recipe.model.dim, world)
            # after them, so that every method starts from the same weights
            self.method: Method = METHODS[recipe.method.name](recipe.method, task)
            if isinstance(recipe.method, CompatibleSettings) and recipe.method.query_map:
                head = build_head(recipe.head, classes, self.old_dim, world)
                self.method = Mapped(self.method, head, recipe.model.dim)
        parts = {"backbone": self.backbone, "head": self.head, "method": self.method}
        self.modules = nn.ModuleDict(parts)
        if self.dtype == torch.float64:
            self.modules.double()
        self.modules.to(self.device)
        # one pass over all weights; on processors the usual loop, whose bits are known
        fused = {"fused": True} if self.device.type == "cuda" else {}
        self.optimizer = OPTIMIZERS[recipe.optimizer.name](
            self.modules.parameters(), **recipe.optimizer.model_dump(exclude={"name"}), **fused
        )
        bf16 = recipe.train.precision == "bf16"
        whole = Objective(self.backbone, self.method, recipe.model.dim, bf16)
        self.features = whole.features
        if recipe.train.compile:
            self.backbone.compile()
        self.objective = shared_out(whole, world, recipe.train.shared_statistics)
        self.heads = [part for part in self.modules.modules() if isinstance(part, CosineHead)]
        self.state = State(self.modules, self.optimizer, classes, world)
        self.step, self.images, self.seconds = 0, 0, 0.0
        self.rate = recipe.optimizer.lr
        self.pending: StepReport | None = None

    @property
    def late(self) -> bool:
        """Return whether a step's losses are looked at in the next: a GPU is not waited for."""
        return self.device.type == "cuda"

    def begin(self) -> HeadStart | None:
        """Take up the weights that a first step starts from, and its learning rate.

        A checkpoint has weights of its own, but not the rate: a resumed run begins, too.

        Returns:
            What was chosen for a head, where the recipe leaves that open.
        """
        start = self.recipe.model.start
        if not isinstance(self.takes, VectorInput) or self.old is None or start == "random":
            return None
        # behind a query map the head has a space of its own
        if self.recipe.model.dim != self.old_dim:
            return None
        chosen = start_at_adapter(start, self.backbone, self.source, self.old)
        if chosen is not None:
            self.rate = self.recipe.optimizer.lr * chosen.rate
        return chosen

    def batches(self) -> Iterator[_Batch]:
        """Yield the batches from the present step to the end, read ahead."""
        return read_ahead(range(self.step, self.steps), self._read)

    def _read(self, step: int) -> _Batch:
        recipe, world = self.recipe, self.world
        plan = self.method.plan(recipe.seed, *divmod(step, self.steps_per_epoch))
        share, own = plan.share(world)
        values = torch.empty(0, self.old_dim)
        if self.old is not None and len(share.old_rows):
            values = torch.from_numpy(self.old.read(share.old_rows))
        labels = self._staged(torch.from_numpy(share.old_labels))
        old = Features(self._staged(values), labels, world.counts(len(plan.old_rows)), world)
        items = torch.from_numpy(self.source.read(share.forward_rows))
        generator = torch_rng(recipe.seed, AUGMENT, step)
        classes = None
        if not isinstance(recipe.head, SoftmaxSettings) and recipe.head.sample < 1:
            every = np.concatenate([plan.forward_labels[: plan.trained], plan.old_labels])
            classes = self._staged(
                sample_classes(
                    torch.from_numpy(every[every >= 0]),
                    len(self.source.classes()),
                    recipe.head.sample,
                    torch_rng(recipe.seed, SAMPLE, step),
                )
            )
        items = augment(items, recipe.data, generator, len(plan.forward_rows), own)
        return _Batch(
            self._staged(items),
            self._staged(torch.from_numpy(share.forward_labels[: share.trained])),
            world.counts(plan.trained),
            old,
            len(plan.forward_rows),
            classes,
        )

    def _staged(self, values: Tensor) -> Tensor:
        """Return values where a GPU can fetch them by itself."""
        return values.pin_memory() if self.device.type == "cuda" else values

    def _sent(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return staged values on the device; a GPU fetches them when it comes to them."""
        return values.to(self.device, dtype, non_blocking=self.device.type == "cuda")

    def take_step(self, batch: _Batch) -> StepReport:
        """Forward, backward, update.

        Raises:
            TrainingDivergedError: a loss or the gradient is NaN or infinite, of this step, and
                nothing was updated; or, on a GPU, of the one before.
            RecipeError: a parameter takes no part, and there are several processes.
        """
        settings = self.recipe.train
        epoch, step_of_epoch = divmod(self.step, self.steps_per_epoch)
        if step_of_epoch == 0:
            average_statistics(self.backbone, self.world)
            before, self.images = self.images, 0
            self.method.on_epoch(epoch, self._extract)
            self.images = before + int(self.world.reduce(torch.tensor(self.images)))
        # for dropout and the like inside a backbone
        words = (self.recipe.seed, STEP, self.step, self.world.rank)
        seed_of_step = torch_rng(*words).initial_seed()
        # `torch.manual_seed` formats the stack for each kind of device that is not there
        torch.default_generator.manual_seed(seed_of_step)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed_of_step)
        factor = learning_rate_factor(self.step, self.steps, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor
        self.modules.train()
        if batch.classes is not None:
            for head in self.heads:
                head.choose(batch.classes)
        old = batch.old
        losses = self.objective(
            to_inputs(self._sent(batch.items), self.takes, self.dtype),
            self._sent(batch.labels),
            batch.counts,
            replace(old, values=self._sent(old.values, self.dtype), labels=self._sent(old.labels)),
            self.head,
            Progress(epoch, settings.epochs, self.step / self.steps),
        )
        shares = torch.stack([*losses.values()])
        summed = self.world.begin_sum(shares.detach().clone())
        self.optimizer.zero_grad(set_to_none=True)
        shares.sum().backward()  # type: ignore[no-untyped-call]
        if self.world.size > 1:
            check_used(self.backbone)
        norm = self._clip()
        report = StepReport(
            self.step + 1,
            self.steps,
            epoch,
            self.images + batch.forwarded,
            self.recipe.name,
            tuple(losses),
            torch.cat([summed(), norm.to(shares)[None]]),
        )
        due, self.pending = self.pending if self.late else report, report
        if due is not None:
            _ = due.losses  # raises where it diverged
        with contextlib.ExitStack() as chosen:
            for head in self.heads:
                chosen.enter_context(head.updated_by(self.optimizer))
            self.optimizer.step()
        self.step, self.images = report.step, report.images
        return report

    def _clip(self) -> Tensor:
        """Scale the backbone's gradient down to its largest norm, and return what it was."""
        trained = [each for each in self.backbone.parameters() if each.grad is not None]
        norm = nn.utils.get_total_norm([given(each.grad) for each in trained])
        limit = self.recipe.train.clip
        # torch multiplies by limit/(norm + 1e-6), or by 1, which need not be where the norm is here
        if limit is not None and (norm.device.type != "cpu" or norm + 1e-6 >= limit):
            nn.utils.clip_grads_with_norm_(trained, limit, norm)
        return norm

    def _extract(self, rows: RowIndices) -> Float[Tensor, "n d"]:
        """Return the present raw features of some rows; their images count as forwarded."""
        chunks = [rows[start : start + 512] for start in range(0, len(rows), 512)]
        self.images += len(rows)
        return torch.cat([self.embed(items) for items in read_ahead(chunks, self.source.read)])

    @torch.no_grad()
    def embed(self, items: Items) -> Float[Tensor, "n e"]:
        """Return the present raw features of images, or vectors, in evaluation mode."""
        self.backbone.eval()
        inputs = to_inputs(torch.from_numpy(items).to(self.device), self.takes, self.dtype)
        return self.features(inputs).cpu()

    def gallery_map(self) -> LinearMap | None:
        """Return what stored rows go through at present, to be compared with new features."""
        fixed = None if self.old is None else self.old.gallery_map
        trained = self.method.gallery_map()
        if trained is None:
            return fixed
        after = LinearMap.of(trained.numpy())
        return fixed.then(after) if fixed else after

    def bridge_from(self, model: Contract) -> Bridge | None:
        """Return how the model's queries meet the old bank's vectors; None: both as they are."""
        matrix = self.method.query_map()
        gallery = self.gallery_map()
        if self.bank is None or (matrix is None and gallery is None):
            return None
        return Bridge(
            kind=TRAINED,
            source=model,
            target=self.bank.manifest.contract,
            query=None if matrix is None else LinearMap.of(matrix.numpy()),
            gallery=gallery,
        )

    def save(self, folder: Path) -> None:
        """Write a checkpoint of the present step.

        Raises:
            TrainingDivergedError: its losses, or the gradient, are NaN or infinite.
        """
        if self.pending is not None:
            _ = self.pending.losses  # raises where it diverged
        average_statistics(self.backbone, self.world)
        self.state.save(folder, self._manifest(self.step))

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        found = self.state.load(path, self._manifest(self.steps))
        self.step, self.seconds, self.images = found.step, found.seconds, found.images

    def _manifest(self, step: int) -> CheckpointManifest:
        return CheckpointManifest(
            step=step,
            seconds=self.seconds,
            images=self.images,
            recipe_digest=self.recipe.digest(),
            data_digest=self.inputs_digest,
        )


def learning_rate_factor(step: int, steps: int, settings: TrainSettings) -> float:
    """Return what the base learning rate is multiplied by at `step` of `steps`.

    (1 − step/steps)^power, after a linear warm-up over the first `warmup_steps`. MixBCT's text
    says that the rate decays linearly (power 1); its code decays quadratically (power 2).

    >>> learning_rate_factor(5, 10, TrainSettings(epochs=1, power=2.0))
    0.25
    """
    decay = float((1 - step / steps) ** settings.power)
    if step < settings.warmup_steps:
        return decay * (step + 1) / settings.warmup_steps
    return decay
