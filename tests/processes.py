"""Worlds of several processes for tests: forked, so that nothing is imported again."""

import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import monotonic
from typing import Any

# imported once here and not in each process
import torch._dynamo  # noqa: F401
from torch.nn.parallel import DistributedDataParallel  # noqa: F401

from mixbct.distributed import World, joined
from mixbct.errors import MixbctError

PATIENCE, GRACE = 280.0, 60.0
"""Seconds, on a machine that others use too: for all to end, and for the rest once one is lost."""

# set while this is imported, before a test starts threads that may read it
os.environ["GLOO_SOCKET_IFNAME"] = "lo"


class LostError(AssertionError):
    """A process ended without a result."""


def run_world(size: int, work: Callable[[World], Any]) -> list[Any]:
    """Return what `work` gives in each of `size` processes, by rank.

    What ends a process is raised as `LostError`, with its words.
    """
    every = outcomes(size, work)
    lost = [(how == "hung", rank, how, found) for rank, (how, found) in enumerate(every)]
    # who waited for another one says nothing of why
    for _, rank, how, found in sorted(one for one in lost if one[2] != "done"):
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
            return _outcomes(pipes)
        finally:
            for process in processes:
                process.join(5)
                process.kill()


def _take_part(
    rank: int, size: int, store: Path, work: Callable[[World], Any], pipe: Connection
) -> None:
    place = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    # a copy, for this process alone (one that it starts would not see it): threads that a library
    # starts anew after a fork may be reading its own
    os.environ = {**os.environ, **place}  # type: ignore[assignment]  # noqa: B003
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


def _outcomes(pipes: list[Connection]) -> list[tuple[str, Any]]:
    found: dict[int, tuple[str, Any]] = {}
    until = monotonic() + PATIENCE
    while len(found) < len(pipes):
        talking = [pipe for rank, pipe in enumerate(pipes) if rank not in found]
        if not (ready := wait(talking, max(0.0, until - monotonic()))):
            break
        for rank, pipe in enumerate(pipes):
            if pipe in ready:
                found[rank] = _outcome(pipe)
                if found[rank][0] != "done":
                    until = min(until, monotonic() + GRACE)
    return [found.get(rank, ("hung", "said nothing in time")) for rank in range(len(pipes))]


def _outcome(pipe: Connection) -> tuple[str, Any]:
    try:
        return pipe.recv()
    except EOFError:
        return "killed", ""
