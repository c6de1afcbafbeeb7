"""The weights of a backbone: read without executing anything, digested, put in their place."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mixbct.errors import ModelError
from mixbct.reading import reason, shown

SHOWN = 5
"""Differences between weights and a backbone that are listed."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, whose header is held against its size.

    Raises:
        ModelError: it is missing or damaged.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"the weights in {shown(path)} do not load as safetensors: {reason(error)}"
        ) from error


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a state dict: names, dtypes, shapes and values in name order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def state_copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy in main memory, one tensor each: safetensors refuses shared memory."""
    plain = torch.contiguous_format
    return {k: v.detach().cpu().clone(memory_format=plain) for k, v in state.items()}


def is_double(tensors: Iterable[Tensor]) -> bool:
    """Return whether all numbers that are no whole ones are float64; a model computes in those."""
    types = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return types == {torch.float64}


def with_weights(
    state: Mapping[str, Tensor],
    differs: str,
    build: Callable[[], nn.Module],
    has_code: bool,
) -> nn.Module:
    """Build a backbone and give it weights, which must have exactly its names and shapes.

    Args:
        state: the weights.
        differs: "the weights …" in words, for where they are not those of the backbone.
        build: gives the backbone.
        has_code: of somebody's own. Any other is built of shapes alone first, so that a dimension
            that the weights do not have takes no memory.

    Raises:
        ModelError: names or shapes differ, and it lists the first few; or see `build`.
    """
    for device in ("cpu",) if has_code else ("meta", "cpu"):
        with torch.device(device):
            backbone = build()
        expected = backbone.state_dict()
        lines = [f"missing: {key}" for key in expected if key not in state]
        lines += [
            f"{key}: found {tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
            for key, tensor in expected.items()
            if key in state and state[key].shape != tensor.shape
        ]
        lines += [f"not expected: {key}" for key in state if key not in expected]
        if lines:
            more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
            raise ModelError(f"the weights {differs}:\n  " + "\n  ".join(lines[:SHOWN]) + more)
    if is_double(state.values()):
        backbone.double()
    backbone.load_state_dict(state)
    return backbone
