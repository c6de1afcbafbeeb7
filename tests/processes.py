"""Worlds of several processes for tests: forked, so that nothing is imported again."""

import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# imported once here and not in each process
import torch._dynamo  # noqa: F401
from torch.nn.parallel import DistributedDataParallel  # noqa: F401

from mixbct.distributed import World, joined

PATIENCE = 120.0


class LostError(AssertionError):
    """A process ended without a result."""


def run_world(size: int, work: Callable[[World], Any], device: str = "cpu") -> list[Any]:
    """Return what `work` gives in each of `size` processes, by rank.

    What ends a process is raised as `LostError`, with its words; an exception that is returned is a
    result.
    """
    fork = get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(size):
            here, there = fork.Pipe(duplex=False)
            arguments = (rank, size, Path(folder) / "store", work, there, device)
            process = fork.Process(target=_take_part, args=arguments, daemon=True)
            process.start()
            there.close()
            pipes.append(here)
            processes.append(process)
        try:
            return [_result(pipe, rank) for rank, pipe in enumerate(pipes)]
        finally:
            for process in processes:
                process.join(5)
                process.kill()


def _take_part(
    rank: int, size: int, store: Path, work: Callable[[World], Any], pipe: Connection, device: str
) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        group = {"init_method": f"file://{store}", "rank": rank, "world_size": size}
        with joined(device, **group) as world:
            pipe.send((True, work(world)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
    pipe.close()
    os._exit(0)


def _result(pipe: Connection, rank: int) -> Any:
    try:
        if not pipe.poll(PATIENCE):
            raise LostError(f"process {rank} said nothing for {PATIENCE} s")
        done, found = pipe.recv()
    except EOFError:
        raise LostError(f"process {rank} was killed") from None
    if not done:
        raise LostError(f"process {rank}: {found}")
    return found
