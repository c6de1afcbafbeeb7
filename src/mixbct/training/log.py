"""What a run says of its steps, and leaves: `steps.jsonl`, and TensorBoard events where installed.

A step's losses come so that no step waits for its own. A log is worth less than its run: lines that
cannot be read are dropped, lines that cannot be written (the disk is full) are left out, which is
said once.
"""

import contextlib
import errno
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mixbct.errors import DataError, MixbctError, TrainingDivergedError
from mixbct.files import write_atomically
from mixbct.reading import read_bytes, reason

EVERY = 20
"""A line of the log is of so many steps."""


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


class StepLog:
    """Appends one line for every 20th step, and for the last.

    Args:
        folder: of the run.
        step: the step that the run goes on from; lines of later steps are dropped, since those
            steps will be taken again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / "steps.jsonl"
        self._said = self._closed = False
        self._board: Any = None
        try:
            found = read_bytes(self._path, "log", DataError) if self._path.exists() else b""
            kept = [line for line in found.splitlines(keepends=True) if _step_of(line) <= step]
            if len(whole := b"".join(kept)) != len(found):
                write_atomically(self._path, whole)
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)
        except ImportError:
            pass
        except (OSError, MixbctError) as error:
            self._closed = True
            self._say(error)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Record the figures of one step (counted from 1)."""
        if self._closed:
            return
        line = (json.dumps({"step": step} | dict(figures)) + "\n").encode()
        try:
            with self._path.open("ab", buffering=0) as file:
                before = file.tell()
                if file.write(line) < len(line):
                    file.truncate(before)
                    raise OSError(errno.ENOSPC, "no space left on the disk")
            if self._board is not None:
                for name, value in figures.items():
                    self._board.add_scalar(name, value, step)
        except OSError as error:
            self._say(error)

    def close(self) -> None:
        """Flush and close."""
        if self._board is not None:
            with contextlib.suppress(OSError):
                self._board.close()

    def _say(self, error: Exception) -> None:
        if not self._said:
            logging.getLogger(__name__).warning(
                "%s: steps are left out, the run goes on: %s", self._path, reason(error)
            )
        self._said = True


def _step_of(line: bytes) -> float:
    """Return the step that a line of the log is of; infinity where it is not whole."""
    try:
        step = float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return math.inf
    return step if line.endswith(b"\n") else math.inf
