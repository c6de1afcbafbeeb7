"""Processes, devices, and random numbers that are pure functions of a seed.

A run by one process and one by many are the same code: a world of one has no process group, and
its collectives are the identity. All others are sums, of what a process has and of zeros where
others have something, so that ranks with different numbers of rows need no padding.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, distributed
from torch.autograd import Function

from mixbct.errors import ModelError, WorldError

PATIENCE = timedelta(minutes=30)
"""How long a process waits for one that lives but does not answer."""

_HALF = 20
"""Bits of a label's lower half: each is a whole number that float32 has."""

# streams of random numbers: a new use takes a new number, so that none disturbs another
ORDER, OLD_ROWS, AUGMENT, PARTNERS, STEP, SAMPLE = range(6)


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this one is.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        local: the rank among those of this machine, which is the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    def counts(self, total: int) -> tuple[int, ...]:
        """Return how many of `total` rows each process has: as even as can be, the first more."""
        return tuple(total // self.size + (rank < total % self.size) for rank in range(self.size))

    def span(self, counts: tuple[int, ...]) -> slice:
        """Return which rows are this process's, where each has as many as `counts` says."""
        before = sum(counts[: self.rank])
        return slice(before, before + counts[self.rank])

    def reduce(self, values: Tensor) -> Tensor:
        """Return the sum over all processes; `values` may be overwritten."""
        if self.size > 1:
            values = values.contiguous()
            distributed.all_reduce(values)
        return values

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes; gradients run through it.

        A loss is the sum of what every process makes of it, so gradients are summed as well.
        """
        return values if self.size == 1 else _Sum.apply(self, values)  # type: ignore[no-untyped-call]

    def gather(self, rows: Shaped[Tensor, "n ..."], counts: tuple[int, ...]) -> Tensor:
        """Return the rows of all processes, in the order of ranks; gradients run through it.

        Args:
            rows: this process's.
            counts: how many each process has.
        """
        if self.size == 1:
            return rows
        every = rows.new_zeros(sum(counts), *rows.shape[1:])
        every[self.span(counts)] = rows
        return self.sum(every)

    def gather_labelled(
        self, rows: Float[Tensor, "n d"], labels: Int64[Tensor, " n"], counts: tuple[int, ...]
    ) -> tuple[Float[Tensor, "m d"], Int64[Tensor, " m"]]:
        """Return the rows of all processes and their labels, see `gather`.

        Processes wait for each other once: labels, below 2^44, go with the rows, in halves that
        float32 has exactly.
        """
        if self.size == 1:
            return rows, labels
        halves = torch.stack([labels >> _HALF, labels & ((1 << _HALF) - 1)], 1)
        every = self.gather(torch.cat([rows, halves.to(rows.dtype)], 1), counts)
        high, low = every.detach()[:, -2:].long().unbind(1)
        return every[:, :-2], (high << _HALF) + low

    def begin_sum(self, values: Tensor) -> Callable[[], Tensor]:
        """Begin a sum over all processes, and return what waits for it and gives it.

        Args:
            values: nobody else's; they become the sum.
        """
        if self.size == 1:
            return lambda: values
        under_way = distributed.all_reduce(values, async_op=True)

        def arrived() -> Tensor:
            under_way.wait()
            return values

        return arrived

    def wait(self) -> None:
        """Wait for all processes."""
        self.any_true(False)

    def any_true(self, flag: bool) -> bool:
        """Return whether it is true for any process."""
        return bool(self.reduce(torch.tensor(int(flag))))

    def open_device(self, name: str, dtype: torch.dtype = torch.float32) -> torch.device:
        """Return this process's device, see `open_device`: of the GPUs, each process has its own.

        Raises:
            WorldError: one GPU is named for several processes.
        """
        if self.size > 1 and name.startswith("cuda:"):
            raise WorldError(
                f"the device {name!r} is one GPU for {self.size} processes: name it 'cuda', and "
                "each process takes its own"
            )
        own = f"cuda:{self.local}" if self.size > 1 and name == "cuda" else name
        return open_device(own, dtype)


ALONE = World()

was_joined = False
"""Whether this process is or was one of several."""


def asked_for() -> World:
    """Return the world that the environment tells of, as torchrun sets it.

    Raises:
        WorldError: it is not what torchrun sets.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    try:
        size = int(os.environ.get("WORLD_SIZE") or 1)
        rank, size, local = (int(os.environ[name]) for name in names) if size > 1 else (0, 1, 0)
        if not 0 <= rank < size:
            raise ValueError
    except (KeyError, ValueError):
        found = ", ".join(f"{name} = {os.environ.get(name)!r}" for name in names)
        raise WorldError(
            f"the environment asks for several processes, but not as torchrun does: {found}; "
            "start them with torchrun, or unset WORLD_SIZE"
        ) from None
    return World(rank, size, local)


@contextmanager
def joined(device: str, **group: Any) -> Iterator[World]:
    """Join the world that the environment tells of, for a while.

    Args:
        device: where the processes compute. On GPUs they talk by NCCL, else by gloo.
        group: of `init_process_group`, where it is not the environment that says it.

    Raises:
        WorldError: the processes do not find each other, or another one ended.
    """
    global was_joined
    world = asked_for()
    if world.size == 1:
        yield world
        return
    if world.rank:
        logging.disable()  # the first process says it
    try:
        if device.startswith("cuda"):
            world.open_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE, **group)
        was_joined = True
        yield world
        distributed.destroy_process_group()
    except RuntimeError as error:
        said = str(error)
        if not isinstance(error, distributed.DistError) and "gloo" not in said.lower():
            raise
        raise WorldError(
            f"process {world.rank} of {world.size} lost another one ({said.splitlines()[0]:.150}): "
            "see what that one said. What was saved is intact: run the same command again, with "
            "--resume",
            exit_code=3,
        ) from error


class _Sum(Function):
    @staticmethod
    def forward(ctx: Any, world: World, values: Tensor) -> Tensor:
        ctx.world = world
        return world.reduce(values.clone())

    @staticmethod
    def backward(ctx: Any, of_sum: Tensor) -> tuple[None, Tensor]:
        return None, ctx.world.reduce(of_sum.clone())


def open_device(name: str, dtype: torch.dtype = torch.float32) -> torch.device:
    """Return the device called `name`, once numbers of a type can be put there.

    Raises:
        ModelError: torch knows no such device, this machine has none, or it has no such numbers.
    """
    try:
        number = torch.zeros((), device=name, dtype=dtype)
        number.item()  # a device without memory of its own ("meta") gives no numbers back
        if number.is_cuda:
            # whose stream and random numbers are meant from here
            torch.cuda.set_device(number.device)
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
    return torch.Generator().manual_seed(state % 2**63)
