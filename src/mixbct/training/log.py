"""What a run leaves of its steps: `steps.jsonl`, and TensorBoard events where it is installed."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EVERY = 20


class StepLog:
    """Appends one line for every 20th step, and for the last.

    Args:
        folder: of the run.
        step: the step that the run goes on from; lines of later steps are dropped, since those
            steps will be taken again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / "steps.jsonl"
        lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._board: Any = None
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Record the figures of one step (counted from 1)."""
        self._file.write(json.dumps({"step": step} | dict(figures)) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        if self._board is not None:
            self._board.close()
