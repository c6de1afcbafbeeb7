"""Checkpoints: safetensors and a JSON manifest, written whole, never pickled.

`checkpoints/step-00000120/` holds the state after 120 steps. The order of the rows, the old
rows, shifts and flips are pure functions of the seed and the step, so weights, optimiser state
and what the method keeps are all that a run needs to go on exactly as if it had never stopped.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from mixbct.backbones.weights import state_copy
from mixbct.errors import CheckpointError
from mixbct.files import folder_written_whole, sha256_file
from mixbct.schemas.record import Document, read_record

Modules = Mapping[str, nn.Module]
"""What has a state; a checkpoint is loaded under the names that it was saved under."""


class CheckpointManifest(Document):
    """`manifest.json` of a checkpoint."""

    kind: Literal["checkpoint"] = "checkpoint"
    step: int = Field(ge=0)
    seconds: float = Field(ge=0, description="of training so far, over all resumptions")
    images: int = Field(ge=0, description="forwarded so far")
    recipe_digest: str
    data_digest: str
    tensors_digest: str = ""


def save_checkpoint(
    folder: Path, manifest: CheckpointManifest, modules: Modules, optimizer: Optimizer
) -> Path:
    """Write one checkpoint and, once it is whole, remove all else from the folder.

    Args:
        folder: of the run's checkpoints.
        manifest: its digest of the tensors is filled in here.
        optimizer: of their parameters.
    """
    tensors = {f"{n}.{k}": v for n, m in modules.items() for k, v in m.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    path = folder / f"step-{manifest.step:08d}"
    with folder_written_whole(path) as partial:
        save_file(state_copy(tensors), partial / "tensors.safetensors")
        signed = manifest.model_copy(
            update={"tensors_digest": sha256_file(partial / "tensors.safetensors")}
        )
        (partial / "manifest.json").write_text(signed.to_json(), encoding="utf-8")
    for other in folder.iterdir():
        if other != path:
            shutil.rmtree(other, ignore_errors=True)
    return path


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint, or None where there is none."""
    return max(folder.glob("step-*"), default=None)


def load_checkpoint(
    path: Path, expected: CheckpointManifest, modules: Modules, optimizer: Optimizer
) -> CheckpointManifest:
    """Take up the state of a checkpoint.

    Args:
        path: of the checkpoint.
        expected: the digests that it must have, and the last step of the run.
        optimizer: of their parameters.

    Raises:
        CheckpointError: it is damaged, or was written under another recipe or on other data (or
            another old bank).
    """
    manifest = read_record(path / "manifest.json", CheckpointManifest, CheckpointError, "manifest")
    for what, differs in (
        ("recipe", manifest.recipe_digest != expected.recipe_digest),
        ("data or old bank", manifest.data_digest != expected.data_digest),
        (f"number of steps than {expected.step}", manifest.step > expected.step),
    ):
        if differs:
            raise CheckpointError(
                f"{path} was written with another {what}: resume with what it was begun with, or "
                "start afresh in another --out"
            )
    file = path / "tensors.safetensors"
    try:
        if sha256_file(file) != manifest.tensors_digest:
            raise CheckpointError(
                f"{file} is damaged: its digest is not the one in its manifest; start afresh in "
                "another --out"
            )
        tensors = load_file(file)
        for name, module in modules.items():
            module.load_state_dict(_below(name, tensors))
        groups = optimizer.state_dict()["param_groups"]
        states = {i: _below(f"optimizer.{i}", tensors) for group in groups for i in group["params"]}
        optimizer.load_state_dict({"state": states, "param_groups": groups})
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be loaded: {error}") from error
    return manifest


def _below(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, under the rest of their names."""
    return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
