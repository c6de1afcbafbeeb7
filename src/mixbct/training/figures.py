"""What the loop says after a step; its losses come so that no step waits for its own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mixbct.errors import TrainingDivergedError


@dataclass
class StepReport:
    """Where a run is after a step, with the step's losses and the norm of its gradient.

    They leave their device at once, and beside what the device is given next: to read them when
    the next step is on its way costs no time.

    Args:
        step: which, counted from 1.
        steps: of the run.
        epoch: from 0.
        images: forwarded so far.
        recipe: its name, for errors.
        names: of the losses.
        values: the losses, and the norm last, on any device.
    """

    step: int
    steps: int
    epoch: int
    images: int
    recipe: str
    names: tuple[str, ...]
    values: Float[Tensor, " n"]

    def __post_init__(self) -> None:
        self._arrived = torch.cuda.Event() if self.values.is_cuda else None  # type: ignore[no-untyped-call]
        # torch takes memory that a GPU can write to by itself
        self.values = self.values.to("cpu", non_blocking=self.values.is_cuda)
        if self._arrived is not None:
            self._arrived.record()

    @property
    def losses(self) -> Mapping[str, float]:
        """Return the losses by name, once they have arrived.

        Raises:
            TrainingDivergedError: one of them, or the gradient, is NaN or infinite.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        *losses, norm = self.values.tolist()
        found = dict(zip(self.names, losses, strict=True))
        if not all(map(math.isfinite, [norm, *losses])):
            named = ", ".join(f"{name} = {value}" for name, value in found.items())
            raise TrainingDivergedError(
                f"training diverged at step {self.step} of {self.steps}: {named}, gradient "
                f"norm {norm} (recipe {self.recipe}); lower optimizer.lr, set "
                "train.warmup_steps, or look at the data"
            )
        return found

    @property
    def images_in_all(self) -> int:
        """Return how many images the whole run forwards, judged by the steps so far."""
        return round(self.images / self.step * self.steps)
