"""Devices, seeds and process counts: one process for now, asked for here so that more can come."""

import numpy as np
import torch

from mixbct.errors import ModelError


def processes() -> int:
    """Return the number of processes that train together."""
    return 1


def open_device(name: str) -> torch.device:
    """Return the device called `name`, once something can be put there.

    Raises:
        ModelError: torch knows no such device, or this machine has none.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"the device {name!r} cannot be used here: {reason}; choose 'cpu', or 'cuda' where "
            "torch finds a GPU"
        ) from error


def row_rng(*words: int) -> np.random.Generator:
    """Return a NumPy generator that is a pure function of `words` (seed, epoch, step, …)."""
    return np.random.default_rng(np.random.SeedSequence(words))


def torch_rng(*words: int) -> torch.Generator:
    """Return a CPU torch generator that is a pure function of `words`."""
    state = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    generator = torch.Generator()
    generator.manual_seed(state % 2**63)
    return generator
