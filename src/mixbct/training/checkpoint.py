"""Checkpoints: safetensors and a JSON manifest, never pickled, for any number of processes.

step-00000120/                          the state after 120 steps
    shared.safetensors                  backbone, method, and what the optimiser keeps of them
    head-00000000-00028029.safetensors  rows [0, 28029) of the heads, and of what is kept of them
    manifest.json                       what each file's digest is

Every process writes the rows of the heads that it owns, the first one the rest, and the manifest
when all is there: without it a checkpoint is none. Any number of processes goes on from it, since
each reads the rows that it owns now out of the files that have them. The order of the rows, the old
rows, shifts and flips are pure functions of the seed and the step, so weights, optimiser state
and what the method keeps are all that a run needs to go on exactly as if it had never stopped.
"""

import logging
import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from mixbct.backbones.model import state_copy
from mixbct.distributed import ALONE, World
from mixbct.errors import CheckpointError
from mixbct.files import disk_full_as_error, sha256_file, sync_file, write_atomically
from mixbct.heads.classifier import CosineHead, LinearHead
from mixbct.reading import failing_as
from mixbct.schemas.record import Document, read_record

_log = logging.getLogger(__name__)
KEPT = 2
"""So many checkpoints stay: where the newest is damaged, the one before it is taken."""
SHARED = "shared.safetensors"
_DAMAGE = OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError
_HEAD = "head-{:08d}-{:08d}.safetensors"


class CheckpointManifest(Document):
    """`manifest.json` of a checkpoint."""

    kind: Literal["checkpoint"] = "checkpoint"
    step: int = Field(ge=0)
    seconds: float = Field(ge=0, description="of training so far, over all resumptions")
    images: int = Field(ge=0, description="forwarded so far")
    recipe_digest: str
    data_digest: str
    spans: tuple[tuple[int, int], ...] = Field((), description="rows of the heads, a file each")
    digests: Mapping[str, str] = Field({}, description="SHA-256 of each file")


class State:
    """What a run has to keep: modules, and what the optimiser knows of their parameters.

    Args:
        modules: by the names that go into the files.
        optimizer: of their parameters.
        classes: how many rows the heads have in all.
        world: the processes, each of which owns some of those rows.
    """

    def __init__(
        self, modules: nn.ModuleDict, optimizer: Optimizer, classes: int, world: World
    ) -> None:
        self.modules, self.optimizer, self.world = modules, optimizer, world
        ends = np.cumsum((0, *world.counts(classes))).tolist()
        self.spans = tuple(pairwise(ends))
        self._of_heads = tuple(
            f"{name}."
            for name, each in modules.named_modules()
            if isinstance(each, CosineHead | LinearHead)
        )
        self._names = [name for name, _ in modules.named_parameters()]

    def save(self, folder: Path, manifest: CheckpointManifest) -> None:
        """Write one checkpoint and, once it is whole, remove all but the last few.

        Args:
            folder: of the run's checkpoints.
            manifest: spans and digests are filled in here.
        """
        path, first = folder / f"step-{manifest.step:08d}", self.world.rank == 0
        try:
            with disk_full_as_error(path):
                if first:
                    shutil.rmtree(path, ignore_errors=True)
                    path.mkdir(parents=True)
                self.world.wait()  # waits for the folder
                of_heads, rest = self._tensors()
                mine = self.spans[self.world.rank]
                digest = bytes(32)
                if mine[0] < mine[1]:
                    digest = _write(path / _HEAD.format(*mine), of_heads)
                row = torch.tensor([list(digest)])
                every = self.world.gather(row, self.world.counts(self.world.size)).tolist()
                if first:
                    files = zip(self.spans, map(bytes, every), strict=True)
                    held = {span: digest for span, digest in files if span[0] < span[1]}
                    digests = {_HEAD.format(*span): held[span].hex() for span in held}
                    digests[SHARED] = _write(path / SHARED, rest).hex()
                    signed = manifest.model_copy(update={"spans": tuple(held), "digests": digests})
                    write_atomically(path / "manifest.json", signed.to_json())
                    kept = finished_checkpoints(folder)[-KEPT:]
                    for other in folder.iterdir():
                        if other not in kept:
                            shutil.rmtree(other, ignore_errors=True)
        except BaseException:
            if first:
                shutil.rmtree(path, ignore_errors=True)
            raise

    def _tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what is of heads, row by row, and what every process has."""
        tensors: dict[str, Tensor] = dict(self.modules.state_dict())
        for index, state in self.optimizer.state_dict()["state"].items():
            for kind, value in state.items():
                if value is not None:
                    tensors[f"{self._names[index]}@{kind}"] = torch.as_tensor(value)
        rows = {k: v for k, v in tensors.items() if k.startswith(self._of_heads)}
        return rows, {k: v for k, v in tensors.items() if k not in rows}

    def load(self, path: Path, expected: CheckpointManifest) -> CheckpointManifest:
        """Take up the state of a checkpoint, whichever processes wrote it.

        Args:
            path: of the checkpoint.
            expected: the digests that it must have, and the last step of the run.

        Raises:
            CheckpointError: it is damaged, or was written under another recipe or on other data
                (or another old bank).
        """
        manifest = read_checked(path, digests=self.world.rank == 0)
        for what, differs in (
            ("recipe", manifest.recipe_digest != expected.recipe_digest),
            ("data or old bank", manifest.data_digest != expected.data_digest),
            (f"number of steps than {expected.step}", manifest.step > expected.step),
        ):
            if differs:
                raise CheckpointError(
                    f"{path} was written with another {what}: resume with what it was begun with, "
                    "or start afresh in another --out"
                )
        with failing_as(CheckpointError, f"{path} cannot be loaded", *_DAMAGE):
            tensors = load_file(path / SHARED)
            tensors |= _rows(path, manifest, *self.spans[self.world.rank])
            self.modules.load_state_dict({k: v for k, v in tensors.items() if "@" not in k})
            groups = self.optimizer.state_dict()["param_groups"]
            states = {i: _below(f"{name}@", tensors) for i, name in enumerate(self._names)}
            self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        return manifest

    def whole_head(self, folder: Path) -> dict[str, Tensor]:
        """Return the head of the newest checkpoint, the rows of all processes.

        Raises:
            CheckpointError: it is damaged.
        """
        path = finished_checkpoints(folder)[-1]
        with failing_as(CheckpointError, f"{path} cannot be loaded", *_DAMAGE):
            rows = _rows(path, read_checked(path, digests=False), 0, self.spans[-1][1])
        return {k: v for k, v in _below("head.", rows).items() if "@" not in k}


def latest_checkpoint(folder: Path, world: World = ALONE) -> Path | None:
    """Return the newest checkpoint that is whole, the same to every process; None: there is none.

    One that is not is named in a warning.

    Raises:
        CheckpointError: all are damaged.
    """
    number = torch.tensor(_newest(folder) if world.rank == 0 else 0)
    found = finished_checkpoints(folder)[: int(world.reduce(number))]
    return found[-1] if found else None


def _newest(folder: Path) -> int:
    """Return how many checkpoints there are up to the newest one that is whole."""
    for left in folder.glob("step-*"):
        if not (left / "manifest.json").exists():
            _log.warning("%s was never finished, and is left out", left)
    whole = finished_checkpoints(folder)
    for number, path in reversed(list(enumerate(whole, start=1))):
        try:
            read_checked(path)
            return number
        except CheckpointError as error:
            if number == 1:
                raise
            _log.warning("%s; the one before it is taken", error)
    return 0


def finished_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints that were written to the end, the oldest first."""
    return sorted(path.parent for path in folder.glob("step-*/manifest.json"))


def read_checked(path: Path, digests: bool = True) -> CheckpointManifest:
    """Return the manifest of a checkpoint, with `digests` after all its files were held to them.

    Raises:
        CheckpointError: a file has another digest, or cannot be read.
    """
    manifest = read_record(path / "manifest.json", CheckpointManifest, CheckpointError, "manifest")
    names = {SHARED, *(_HEAD.format(*span) for span in manifest.spans)}
    for name in sorted(names) if digests else ():
        with failing_as(CheckpointError, f"{path} cannot be loaded", *_DAMAGE):
            if sha256_file(path / name) != manifest.digests.get(name):
                raise CheckpointError(
                    f"{path / name} is damaged: its digest is not the one in its manifest; start "
                    "afresh in another --out"
                )
    return manifest


def _write(path: Path, tensors: Mapping[str, Tensor]) -> bytes:
    """Write one file and return its digest."""
    save_file(state_copy(tensors), path)
    sync_file(path)
    return bytes.fromhex(sha256_file(path))


def _rows(path: Path, manifest: CheckpointManifest, start: int, stop: int) -> dict[str, Tensor]:
    """Return rows [start, stop) of all that is of heads, out of the files that have them."""
    parts: dict[str, list[Tensor]] = {}
    for first, last in manifest.spans:
        with safe_open(path / _HEAD.format(first, last), "pt") as file:
            low, high = max(start, first) - first, min(stop, last) - first
            for name in file.keys():  # noqa: SIM118
                rows = file.get_slice(name)
                whole = not rows.get_shape()
                part = file.get_tensor(name) if whole else rows[low : max(low, high)]
                parts.setdefault(name, []).append(part)
    return {k: v[0] if v[0].dim() == 0 else torch.cat(v) for k, v in parts.items()}


def _below(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, under the rest of their names."""
    return {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}
