"""What is trained does not depend on how many processes train it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import outcomes, run_world
from tiny_run import DIM, MemorySource, make_bank, make_recipe
from torch import nn

from mixbct.distributed import (
    AUGMENT,
    OLD_ROWS,
    ORDER,
    PARTNERS,
    SAMPLE,
    STEP,
    World,
    row_rng,
)
from mixbct.methods import METHODS, Features
from mixbct.recipe import Recipe
from mixbct.training.trainer import Trainer

STEPS = 50
Alone = Callable[[str, bool, int], Any]
SMOOTH = (
    f'model={{dim = {DIM}, size = 16, channels = 1, backbone = "test_many_processes:smooth"}}',
    "train.precision='float64'",
)
VARIANTS = {  # name → method and other words
    "independent": 'name = "independent"',
    "independent, softmax": 'name = "independent"',
    "l2": 'name = "l2"',
    "weakened_l2": 'name = "weakened_l2", slack = 0.1',
    "bct": 'name = "bct"',
    "unibct": 'name = "unibct", refresh = [1, 3]',
    "nccl": 'name = "nccl", queue = 30',
    "nccl, mapped": 'name = "nccl", queue = 30, query_map = "projection"',
    "advbct": 'name = "advbct"',
    "advbct, outside": 'name = "advbct", mean_over = "outside", query_map = "projection"',
    "mixbct, replace": 'name = "mixbct", draw = "replace", ratio = 0.4',
    "mixbct, skip": 'name = "mixbct", draw = "skip", ratio = 0.4',
    "mixbct, bank": 'name = "mixbct", draw = "bank", ratio = 0.4',
    "mixbct, weighted": 'name = "mixbct", draw = "bank", ratio = 0.2, old_weight = 0.7',
    "mixbct, contrast": 'name = "mixbct", draw = "bank", contrast = 0.5, negatives = 9',
    "mixbct, readout": 'name = "mixbct", contrast = 0.5, negatives = 9, readout = 2.0',
    "mixbct, gallery map": 'name = "mixbct", contrast = 0.5, negatives = 9, readout = 2.0, '
    'query_map = "projection", gallery_map = "projection"',
    "mixbct, sampled": 'name = "mixbct", draw = "bank", ratio = 0.2, query_map = "projection"',
}
MORE = {
    "independent, softmax": ('head={name = "softmax"}',),
    "mixbct, sampled": ("head.sample=0.5", 'optimizer={name = "adamw", lr = 0.01}'),
}


def smooth(dim: int, size: int, channels: int) -> nn.Module:
    """No batch normalisation, and no kink that would make rounding large."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(size * size * channels, 8), nn.Tanh(), nn.Linear(8, dim)
    )


def source_of(even: bool) -> MemorySource:
    """Classes and rows that divide by 2 and 4 (the rows by 3 as well), or by none of them."""
    return MemorySource(61, classes=tuple("abcdefgh" if even else "abcdefg"))


def recipe_of(variant: str, bank: Path, even: bool, *words: str) -> Recipe:
    method = VARIANTS[variant]
    if "independent" not in method:
        method += f', bank = "{bank}"'
    batch = 12 if even else 13
    more = MORE.get(variant, ())
    epochs = f"train.epochs={-(-STEPS // (61 // batch))}"
    rest = (f"train.batch={batch}", epochs, "optimizer.lr=0.02")
    return make_recipe(f"method={{{method}}}", *SMOOTH, *rest, *more, *words)


def state_of(trainer: Trainer) -> dict[str, np.ndarray]:
    return {
        f"{part}.{name}": tensor.detach().numpy().copy()
        for part, module in trainer.modules.items()
        for name, tensor in module.state_dict().items()
    }


def trained(world: World, recipe: Recipe, source: MemorySource, steps: int = STEPS) -> Any:
    """Return losses and weights after some steps; those of heads are this process's rows."""
    trainer = Trainer(recipe, source, world)
    batches = trainer.batches()
    losses = [dict(trainer.take_step(next(batches)).losses) for _ in range(steps)]
    return losses, state_of(trainer), trainer.images


def compare(found: list[Any], alone: Any, what: str, rtol: float = 1e-10) -> None:
    losses, weights, images = alone
    for ours in found:
        assert ours[2] == images
        for step, (one, other) in enumerate(zip(ours[0], losses, strict=True)):
            assert one == pytest.approx(other, rel=rtol, abs=1e-12), f"{what}: step {step}"
    for name, expected in weights.items():
        parts = [ours[1][name] for ours in found]
        of_head = "head" in name
        value = np.concatenate(parts) if of_head else parts[0]
        for part in () if of_head else parts[1:]:
            np.testing.assert_array_equal(part, value, f"{what}: {name} over processes")
        scale = np.linalg.norm(expected) or 1.0
        apart = np.linalg.norm(value - expected) / scale
        assert apart < rtol, f"{what}: {name} is {apart:.1e} off"


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    folder = tmp_path_factory.mktemp("banks")
    return {even: make_bank(folder / str(even), source_of(even)).path for even in (True, False)}


def test_every_method_is_looked_at() -> None:
    assert {words.split('"')[1] for words in VARIANTS.values()} == set(METHODS)


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize(
    ("even", "size", "steps"),
    [
        (True, 2, 9),
        (False, 3, 9),  # one look of unibct at the whole set, three turns of nccl's queue
        (False, 4, 5),
        *(
            pytest.param(even, size, STEPS, marks=pytest.mark.slow)
            for even in (True, False)
            for size in (2, 3, 4)
        ),
    ],
)
def test_weights_are_those_of_one_process(
    banks: dict[bool, Path], alone: Alone, even: bool, size: int, steps: int, half: int
) -> None:
    variants = list(VARIANTS)[half::2]
    recipes = [recipe_of(variant, banks[even], even) for variant in variants]
    found = run_world(
        size, lambda world: [trained(world, r, source_of(even), steps) for r in recipes]
    )
    for number, variant in enumerate(variants):
        compare([each[number] for each in found], alone(variant, even, steps), variant)


@pytest.fixture(scope="module")
def alone(banks: dict[bool, Path]) -> Alone:
    """Return what one process comes to, of a variant; once each."""
    known: dict[tuple[str, bool, int], Any] = {}

    def of(variant: str, even: bool, steps: int) -> Any:
        if (variant, even, steps) not in known:
            recipe = recipe_of(variant, banks[even], even)
            known[variant, even, steps] = trained(World(), recipe, source_of(even), steps)
        return known[variant, even, steps]

    return of


def test_a_method_that_divides_by_its_own_rows_is_seen(
    banks: dict[bool, Path], alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Features, "total", property(lambda self: len(self.labels)))
    recipe = recipe_of("l2", banks[True], True)
    found = run_world(2, lambda world: trained(world, recipe, source_of(True), 3))
    with pytest.raises(AssertionError, match="step 0"):
        compare(found, alone("l2", True, 3), "l2")


NORMALISED = (
    f'model={{dim = {DIM}, size = 16, channels = 1, options = {{width = 2, activation = "silu"}}}}',
    "train.precision='float64'",
    "train.batch=7",
    "train.shared_statistics=true",
)


def test_batch_statistics_of_all_processes(banks: dict[bool, Path]) -> None:
    """One batch of them all where the recipe says so, else a batch of each."""
    shared = make_recipe(*NORMALISED, "method.ratio=0.2", bank=banks[False], draw="skip")
    apart = shared.model_copy(
        update={"train": shared.train.model_copy(update={"shared_statistics": False})}
    )
    expected = trained(World(), shared, source_of(False), 20)
    with_switch, without = zip(
        *run_world(
            3, lambda w: [trained(w, each, source_of(False), 20) for each in (shared, apart)]
        ),
        strict=True,
    )
    compare(list(with_switch), expected, "shared statistics")
    same = trained(World(), apart, source_of(False), 20)
    assert same[0] == expected[0]  # one process does not notice
    with pytest.raises(AssertionError, match="step 0"):
        compare(list(without), expected, "apart")


def idle(dim: int, size: int, channels: int) -> nn.Module:
    """Hold a parameter that takes no part."""
    module = smooth(dim, size, channels)
    module.register_parameter("spare", nn.Parameter(torch.zeros(1)))
    return module


def test_what_cannot_be_shared_is_refused(banks: dict[bool, Path]) -> None:
    few = recipe_of("independent", banks[True], True, "train.batch=2")
    skip = recipe_of("mixbct, skip", banks[True], True, "train.batch=4", "method.ratio=0.5")
    spare = recipe_of("independent", banks[True], True, "model.backbone=test_many_processes:idle")
    device = recipe_of("independent", banks[True], True, "train.device=cuda:0")
    for recipe, words in (
        (few, "train.batch = 2 leaves one of 3 processes without a row"),
        (skip, "fewer than there are processes"),
        (spare, "the backbone's spare took no part in the loss"),
        (device, "'cuda:0' is one GPU for 3 processes: name it 'cuda'"),
    ):
        ends = outcomes(3, lambda world, recipe=recipe: trained(world, recipe, source_of(True), 1))
        assert {how for how, _ in ends} == {"exit 2"}
        assert all(words in said for _, said in ends)


def test_every_stream_of_random_numbers_is_its_own() -> None:
    """Words that end in zeros coincide with shorter ones, so the second word says what for."""
    seen: dict[int, tuple[int, ...]] = {}
    few = range(12)
    words = [(3, ORDER, epoch) for epoch in few]
    words += [(3, kind, e, s) for kind in (OLD_ROWS, PARTNERS) for e in few for s in few]
    words += [(3, kind, step) for kind in (AUGMENT, SAMPLE) for step in few]
    words += [(3, STEP, step, rank) for step in few for rank in few]
    for each in words:
        first = int(row_rng(*each).integers(2**63))
        assert first not in seen, f"{each} and {seen.get(first)}"
        seen[first] = each
    # which is why a step has no stream (seed, step)
    assert row_rng(3, 1).integers(2**63) == row_rng(3, OLD_ROWS, 0, 0).integers(2**63)
