"""Two processes of one thread that train together, beside one process of two threads.

The same recipe, the demo's, and the same batch in all: what is measured is what sharing costs,
the sums over processes and the waiting for each other.
"""

import os
import tomllib
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.data import CLASSES, image_source
from benchmarks.measure import Figure, in_turn, rate_figure
from mixbct.data.array import ArraySource
from mixbct.distributed import joined
from mixbct.recipe import Recipe, apply_overrides, parse_recipe
from mixbct.training.trainer import Trainer
from mixbct.workflows.demo import SETTINGS
from mixbct.workflows.recipes import recipe_text

STEPS, BATCH, SECONDS = 5, 256, 60.0


def run(folder: Path) -> list[Figure]:
    """Return two_processes, in images a second."""
    image_source(folder / "images", 30 * CLASSES)
    spawn = get_context("spawn")
    teams: list[list[Connection]] = []
    for size in (2, 1):
        team = []
        for rank in range(size):
            here, there = spawn.Pipe()
            words = (there, rank, size, folder, BATCH)
            spawn.Process(target=_work, args=words, daemon=True).start()
            team.append(here)
        teams.append(team)

    def steps(team: list[Connection]) -> None:
        for pipe in team:
            pipe.send(STEPS)
        for pipe in team:
            pipe.recv()

    pairs = in_turn(lambda: steps(teams[0]), lambda: steps(teams[1]), for_seconds=SECONDS)
    for team in teams:
        for pipe in team:
            pipe.send(0)
    return [rate_figure("two_processes", "images/s", pairs, STEPS * BATCH)]


def _recipe(threads: int, batch: int) -> Recipe:
    content = apply_overrides(tomllib.loads(recipe_text("new")), list(SETTINGS))
    content["method"] = {"name": "independent"}
    content["train"] |= {"threads": threads, "batch": batch, "epochs": 1000}
    return parse_recipe(content, "the demo's recipe")


def _work(pipe: Connection, rank: int, size: int, folder: Path, batch: int) -> None:
    """Take as many steps as is asked for, again and again."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    group = {"init_method": f"file://{folder / 'store'}", "rank": rank, "world_size": size}
    with joined("cpu", **group) as world:
        trainer = Trainer(_recipe(2 // size, batch), ArraySource(folder / "images"), world)
        batches = trainer.batches()
        while steps := pipe.recv():
            for _ in range(steps):
                trainer.take_step(next(batches))
            pipe.send(None)
