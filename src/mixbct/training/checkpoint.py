"""Checkpoints: safetensors and a JSON manifest, written whole, never pickled.

`checkpoints/step-00000120/` holds the state after 120 steps. The order of the rows, the old
rows, shifts and flips are pure functions of the seed and the step, so weights, optimiser state
and what the method keeps are all that a run needs to go on exactly as if it had never stopped.
"""

import shutil
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
from mixbct.heads.classifier import Head
from mixbct.methods import Method
from mixbct.schemas.record import SCHEMA_VERSION, Record, read_record


class CheckpointManifest(Record):
    """`manifest.json` of a checkpoint."""

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    seconds: float = Field(description="of training so far, over all resumptions")
    images: int = Field(description="forwarded so far")
    recipe_digest: str
    data_digest: str
    tensors_digest: str


def save_checkpoint(
    folder: Path,
    manifest: CheckpointManifest,
    backbone: nn.Module,
    head: Head,
    method: Method,
    optimizer: Optimizer,
) -> Path:
    """Write one checkpoint and, once it is whole, remove those before it."""
    tensors = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    tensors |= {f"head.{k}": v for k, v in head.state_dict().items()}
    tensors |= {f"method.{k}": v for k, v in method.state_dict().items()}
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
    for older in folder.glob("step-*"):
        if older != path:
            shutil.rmtree(older)
    return path


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint, or None where there is none."""
    return max(folder.glob("step-*"), default=None)


def load_checkpoint(
    path: Path,
    recipe_digest: str,
    data_digest: str,
    backbone: nn.Module,
    head: Head,
    method: Method,
    optimizer: Optimizer,
) -> CheckpointManifest:
    """Take up the state of a checkpoint.

    Raises:
        CheckpointError: it is damaged, or was written under another recipe or on other data (or
            another old bank).
    """
    manifest = read_record(path / "manifest.json", CheckpointManifest, CheckpointError, "manifest")
    for what, found, expected in (
        ("recipe", manifest.recipe_digest, recipe_digest),
        ("data or old bank", manifest.data_digest, data_digest),
    ):
        if found != expected:
            raise CheckpointError(
                f"{path} was written with another {what}: resume with what it was begun with, or "
                "start afresh in another --out"
            )
    file = path / "tensors.safetensors"
    try:
        if sha256_file(file) != manifest.tensors_digest:
            raise CheckpointError(f"{file} is damaged: its digest is not the one in its manifest")
        tensors = load_file(file)
        backbone.load_state_dict(_under("backbone.", tensors))
        head.load_state_dict(_under("head.", tensors))
        method.load_state_dict(_under("method.", tensors))
        _load_optimizer(optimizer, _under("optimizer.", tensors))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be loaded: {error}") from error
    return manifest


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
