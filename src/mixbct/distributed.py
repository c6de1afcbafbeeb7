"""Devices, and random numbers that are pure functions of a seed: one process for now."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from mixbct.errors import ModelError


def open_device(name: str, dtype: torch.dtype = torch.float32) -> torch.device:
    """Return the device called `name`, once numbers of a type can be put there.

    Raises:
        ModelError: torch knows no such device, this machine has none, or it has no such numbers.
    """
    try:
        number = torch.zeros((), device=name, dtype=dtype)
        number.item()  # a device without memory of its own ("meta") gives no numbers back
        return number.device
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"the device {name!r} cannot be used here: {reason}; choose 'cpu', or 'cuda' where "
            "torch finds a GPU"
        ) from error


def device_name(name: str) -> str:
    """Return what to call the device that computes: a GPU's name, or the processor's."""
    device = open_device(name)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    described = Path("/proc/cpuinfo")
    if device.type == "cpu" and described.exists():
        for line in described.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return str(device)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let torch make new numbers as `dtype` for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def row_rng(*words: int) -> np.random.Generator:
    """Return a NumPy generator that is a pure function of `words` (seed, epoch, step, …)."""
    return np.random.default_rng(np.random.SeedSequence(words))


def torch_rng(*words: int) -> torch.Generator:
    """Return a CPU torch generator that is a pure function of `words`."""
    state = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    generator = torch.Generator()
    generator.manual_seed(state % 2**63)
    return generator
