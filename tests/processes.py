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
from mixbct.errors import MixbctError

PATIENCE = 280.0
"""Seconds, on a machine that others use too."""


class LostError(AssertionError):
    """A process ended without a result."""


def run_world(size: int, work: Callable[[World], Any]) -> list[Any]:
    """Return what `work` gives in each of `size` processes, by rank.

    What ends a process is raised as `LostError`, with its words.
    """
    every = outcomes(size, work)
    for rank, (how, found) in enumerate(every):
        if how != "done":
            raise LostError(f"process {rank}: {how}: {found}")
    return [found for _, found in every]


def outcomes(size: int, work: Callable[[World], Any]) -> list[tuple[str, Any]]:
    """Return how each process ended, by rank, and with what.

    That is "done" and its result, the exit code of a named error and its words, "killed", or
    "fault" and a traceback.
    """
    fork = get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(size):
            here, there = fork.Pipe(duplex=False)
            arguments = (rank, size, Path(folder) / "store", work, there)
            process = fork.Process(target=_take_part, args=arguments, daemon=True)
            process.start()
            there.close()
            pipes.append(here)
            processes.append(process)
        try:
            return [_outcome(pipe) for pipe in pipes]
        finally:
            for process in processes:
                process.join(5)
                process.kill()


def _take_part(
    rank: int, size: int, store: Path, work: Callable[[World], Any], pipe: Connection
) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        group = {"init_method": f"file://{store}", "rank": rank, "world_size": size}
        with joined("cpu", **group) as world:
            pipe.send(("done", work(world)))
    except MixbctError as error:
        pipe.send((f"exit {error.exit_code}", str(error)))
    except BaseException:
        pipe.send(("fault", traceback.format_exc()))
    pipe.close()
    os._exit(0)


def _outcome(pipe: Connection) -> tuple[str, Any]:
    try:
        return pipe.recv() if pipe.poll(PATIENCE) else ("hung", f"said nothing for {PATIENCE} s")
    except EOFError:
        return "killed", ""
