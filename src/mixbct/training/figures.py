"""The losses of a step on their way from the device, so that no step waits for its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mixbct.errors import TrainingDivergedError


class StepFigures:
    """Losses and gradient norm of one step.

    The copy begins at once and runs beside what the device is given next: to read it when the next
    step is on its way costs no time.

    Args:
        step: which, counted from 1.
        said: what errors say of the run after that: how many steps, which recipe.
        names: of the losses.
        values: the losses, and the norm last, on any device.
    """

    def __init__(
        self, step: int, said: tuple[int, str], names: Sequence[str], values: Float[Tensor, " n"]
    ) -> None:
        self._step, self._said, self._names = step, said, tuple(names)
        # torch takes memory that a GPU can write to by itself
        self._values = values.to("cpu", non_blocking=values.is_cuda)
        self._arrived = None
        if values.is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def losses(self) -> dict[str, float]:
        """Return the losses by name, once they have arrived.

        Raises:
            TrainingDivergedError: one of them, or the gradient, is NaN or infinite.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        *losses, norm = self._values.tolist()
        found = dict(zip(self._names, losses, strict=True))
        if not all(map(math.isfinite, [norm, *losses])):
            named = ", ".join(f"{name} = {value}" for name, value in found.items())
            steps, recipe = self._said
            raise TrainingDivergedError(
                f"training diverged at step {self._step} of {steps}: {named}, gradient "
                f"norm {norm} (recipe {recipe}); lower optimizer.lr, set "
                "train.warmup_steps, or look at the data"
            )
        return found


@dataclass(frozen=True)
class StepReport:
    """What the loop says after each step."""

    step: int
    steps: int
    epoch: int
    figures: StepFigures
    images: int
    """Images forwarded so far."""

    @property
    def losses(self) -> Mapping[str, float]:
        """Return the step's losses, once they are there; see `StepFigures`."""
        return self.figures.losses()

    @property
    def images_in_all(self) -> int:
        """Return how many images the whole run forwards, judged by the steps so far."""
        return round(self.images / self.step * self.steps)
