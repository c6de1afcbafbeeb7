"""Checkpoints that any number of processes goes on from, and what happens when one is lost."""

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import outcomes, run_world
from safetensors.numpy import load_file
from test_many_processes import compare, recipe_of, source_of, state_of, trained
from tiny_run import make_bank

from mixbct.distributed import World
from mixbct.recipe import Recipe
from mixbct.training.checkpoint import latest_checkpoint
from mixbct.training.log import StepReport
from mixbct.training.run import train
from mixbct.training.trainer import Trainer

VARIANTS = ("independent, softmax", "nccl, mapped", "mixbct, sampled", "unibct")


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bank(tmp_path_factory.mktemp("bank") / "bank", source_of(False)).path


def gone_on(world: World, recipe: Recipe, folder: Path, steps: int) -> Any:
    """Return losses and weights of some steps after the newest checkpoint, and save again."""
    trainer = Trainer(recipe, source_of(False), world)
    if (path := latest_checkpoint(folder, world)) is not None:
        trainer.load(path)
    batches = trainer.batches()
    losses = [dict(trainer.take_step(next(batches)).losses) for _ in range(steps)]
    trainer.save(folder)
    return losses, state_of(trainer), trainer.images


def test_any_number_of_processes_goes_on(tmp_path: Path, bank: Path) -> None:
    """Written by 4, gone on with by 3, by 1 and by 2: the losses of one that never stopped."""
    recipes = [recipe_of(variant, bank, False) for variant in VARIANTS]
    folders = [tmp_path / str(number) for number in range(len(recipes))]

    def part(world: World) -> Any:
        return [gone_on(world, r, f, 6) for r, f in zip(recipes, folders, strict=True)]

    parts = [run_world(4, part), run_world(3, part), [part(World())], run_world(2, part)]
    for number, variant in enumerate(VARIANTS):
        losses, weights, images = trained(World(), recipes[number], source_of(False), 24)
        found = [[each[number] for each in every] for every in parts]
        met = [loss for every in found for loss in every[0][0]]
        compare([(met, *each[1:]) for each in found[-1]], (losses, weights, images), variant)
        heads = sorted(path.name for path in folders[number].glob("step-*24/head-*"))
        assert heads == ["head-00000000-00000004.safetensors", "head-00000004-00000007.safetensors"]


def run(recipe: Recipe, out: Path, progress: Callable[[World, StepReport], None]) -> Any:
    def work(world: World) -> int:
        cost = train(
            recipe,
            source_of(False),
            out,
            resume=True,
            progress=lambda report: progress(world, report),
            world=world,
        )
        return cost.steps

    return work


def nothing(world: World, report: StepReport) -> None:
    pass


def weights_of(out: Path) -> dict[str, np.ndarray]:
    return {
        f"{path.stem}.{name}": value
        for path in (out / "model").glob("*.safetensors")
        for name, value in load_file(path).items()
    }


def short(bank: Path) -> Recipe:
    words = ("train.epochs=2", "train.checkpoint_every=3")
    return recipe_of("nccl, mapped", bank, False, *words)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_kill_9_of_one_process_at_a_random_moment(
    tmp_path: Path, bank: Path, size: int, kills: int
) -> None:
    """The others end with a plain message, and the run goes on as if nothing were."""
    recipe, rng = short(bank), random.Random(size)
    whole = tmp_path / "whole"
    assert run_world(size, run(recipe, whole, nothing)) == [8] * size
    expected = weights_of(whole)
    for turn in range(kills):
        out, victim, step = tmp_path / str(turn), rng.randrange(size), rng.randint(1, 7)
        delay = rng.random() * 0.02

        def kill(
            world: World,
            report: StepReport,
            victim: int = victim,
            step: int = step,
            delay: float = delay,
        ) -> None:
            if world.rank == victim and report.step == step:
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

        ends = outcomes(size, run(recipe, out, kill))
        assert ends[victim][0] == "killed"
        for rank, (how, said) in enumerate(ends):
            if rank != victim:
                assert how == "exit 3", said
                assert f"process {rank} of {size} lost another one" in said
                assert "run the same command again, with --resume" in said
        assert not (out / "model").exists()
        assert run_world(size, run(recipe, out, nothing)) == [8] * size
        found = weights_of(out)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if size == 1:
                np.testing.assert_array_equal(found[name], value)
            else:
                np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-9)


def test_a_stop_of_one_is_a_stop_of_all(tmp_path: Path, bank: Path) -> None:
    def interrupt(world: World, report: StepReport) -> None:
        if world.rank == 2 and report.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    ends = outcomes(3, run(short(bank), tmp_path / "run", interrupt))
    assert {how for how, _ in ends} == {"exit 3"}
    assert all("stopped after step 4 of 8" in said for _, said in ends)
    assert run_world(2, run(short(bank), tmp_path / "run", nothing)) == [8, 8]
    assert run_world(1, run(short(bank), tmp_path / "whole", nothing)) == [8]
    for name, value in weights_of(tmp_path / "whole").items():
        found = weights_of(tmp_path / "run")[name]
        np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-12)


def test_divergence_is_one_of_all(tmp_path: Path, bank: Path) -> None:
    recipe = recipe_of("mixbct, bank", bank, False, "optimizer.lr=1e300")
    ends = outcomes(3, run(recipe, tmp_path / "run", nothing))
    assert {how for how, _ in ends} == {"exit 2"}
    assert len({said for _, said in ends}) == 1
    assert "training diverged at step" in ends[0][1]


def test_an_error_of_one_ends_the_others(tmp_path: Path, bank: Path) -> None:
    def fail(world: World, report: StepReport) -> None:
        if world.rank == 1 and report.step == 4:
            raise OSError("the disk went away")

    ends = outcomes(2, run(short(bank), tmp_path / "run", fail))
    assert [how for how, _ in ends] == ["exit 3", "fault"]
    assert "the disk went away" in ends[1][1]
    assert run_world(2, run(short(bank), tmp_path / "run", nothing)) == [8, 8]
