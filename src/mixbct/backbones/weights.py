"""The weights of a backbone: read without executing anything, digested, copied."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mixbct.errors import ModelError
from mixbct.reading import failing_as, file_size, shown

State = Mapping[str, Tensor]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, whose header is held against its size.

    Raises:
        ModelError: it is missing or damaged.
    """
    file_size(path, "file of weights", ModelError)
    with failing_as(ModelError, f"the weights in {shown(path)} do not load as safetensors"):
        return load_file(path)


def weights_digest(state: State) -> str:
    """Return the SHA-256 of a state dict: names, dtypes, shapes and values in name order."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def state_copy(state: State) -> dict[str, Tensor]:
    """Return a copy in main memory, one tensor each: safetensors refuses shared memory."""
    plain = torch.contiguous_format
    return {k: v.detach().cpu().clone(memory_format=plain) for k, v in state.items()}


def is_double(tensors: Iterable[Tensor]) -> bool:
    """Return whether all numbers that are no whole ones are float64; a model computes in those."""
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float64}
