"""Class weights shared out over processes give the losses and gradients of one process."""

import numpy as np
import pytest
import torch
from processes import run_world
from torch.optim import SGD, AdamW, Optimizer

from mixbct.distributed import World
from mixbct.heads.classifier import CosineHead, Head, build_head, sample_classes
from mixbct.recipe import ArcFaceSettings, CosFaceSettings, HeadSettings, SoftmaxSettings

DIM = 5
HEADS: dict[str, HeadSettings] = {
    "arcface": ArcFaceSettings(name="arcface", scale=16.0, margin=0.4),
    "cosface": CosFaceSettings(name="cosface", scale=64.0, margin=0.2),
    "softmax": SoftmaxSettings(name="softmax"),
}
CASES = {  # classes, and the classes of the rows
    "even": (12, [0, 3, 11, 5, 5, 7, 8, 2, 9, 0, 1, 6]),
    "uneven": (11, [10, 3, 0, 5, 5, 7, 8]),
    "one process owns no class of the batch": (12, [0, 1, 2, 0, 1]),
    "fewer classes than processes": (3, [2, 0, 1, 1, 2, 0]),
    "fewer rows than processes": (9, [4, 8]),
    "one class": (1, [0, 0, 0, 0]),
}


def rows_of(case: str) -> tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]:
    classes, labels = CASES[case]
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(len(labels), DIM, dtype=torch.float64, generator=generator)
    # a loss that is not counted, and one that is to be large
    weights = torch.arange(-1, len(labels) - 1, dtype=torch.float64)
    return classes, features, torch.tensor(labels), weights


def make_head(settings: HeadSettings, classes: int, world: World, dim: int = DIM) -> Head:
    torch.manual_seed(3)
    head = build_head(settings, classes, dim, world).double()
    with torch.no_grad():
        head.weight.mul_(100)  # no tiny norms
        if not isinstance(head, CosineHead):
            head.bias.copy_(torch.linspace(-1, 1, classes, dtype=torch.float64)[head.owned])
    return head


def looked_at(case: str, share: float) -> torch.Tensor | None:
    classes, labels = CASES[case]
    generator = torch.Generator().manual_seed(1)
    chosen = sample_classes(torch.tensor(labels), classes, share, generator)
    return chosen if share < 1 else None


def walked(world: World, case: str, name: str, share: float) -> dict[str, np.ndarray]:
    """Return this process's losses, and the gradients of its features and of its weights."""
    classes, features, labels, weights = rows_of(case)
    head = make_head(HEADS[name], classes, world)
    chosen = looked_at(case, share)
    if chosen is not None:
        head.choose(chosen)
    counts = world.counts(len(labels))
    own = world.span(counts)
    values = features[own].clone().requires_grad_()
    before = values.detach().clone(), labels[own].clone()
    losses = head(values, labels[own], counts)
    (losses * weights[own]).sum().backward()
    assert torch.equal(values.detach(), before[0])
    found = {"losses": losses.detach(), "features": values.grad}
    if chosen is not None:
        found["chosen"] = head._rows.grad
        assert head.weight.grad is None
    else:
        found |= {f"of {n}": p.grad for n, p in head.named_parameters()}
    return {name: tensor.numpy() for name, tensor in found.items()}


def together(every: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([each[name] for each in every]) for name in every[0]}


VARIANTS = [(case, name, 1.0) for case in CASES for name in HEADS] + [
    (case, name, share)
    for case in CASES
    for name in ("arcface", "cosface")
    for share in (0.5, 0.99)
]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_losses_and_gradients_are_those_of_one_process(size: int) -> None:
    found = run_world(size, lambda world: [walked(world, *each) for each in VARIANTS])
    for number, variant in enumerate(VARIANTS):
        alone = walked(World(), *variant)
        ours = together([each[number] for each in found])
        assert ours.keys() == alone.keys()
        for name in alone:
            np.testing.assert_allclose(
                ours[name], alone[name], rtol=1e-10, atol=1e-10, err_msg=f"{variant}: {name}"
            )
        assert np.abs(alone["features"]).max() > 1e-3 or CASES[variant[0]][0] == 1


def waits(
    world: World, name: str, share: float, left_out: int | None
) -> tuple[int, dict[str, np.ndarray]]:
    """Return how often this process waits for the others, and what `walked` does but for one."""
    kept, count = World.reduce, 0

    def reduce(self: World, values: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return values if count - 1 == left_out else kept(self, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(World, "reduce", reduce)
        found = walked(world, "even", name, share)
    return count, found


@pytest.mark.parametrize(
    ("name", "share", "times"),
    [("arcface", 1.0, 3), ("arcface", 0.5, 3), ("cosface", 1.0, 3), ("softmax", 1.0, 4)],
)
def test_a_step_waits_so_often_and_each_time_is_needed(name: str, share: float, times: int) -> None:
    """For the rows, for what they have in each process, and in the backward pass."""
    alone = walked(World(), "even", name, share)
    left_out = (None, *range(times))
    every = run_world(2, lambda world: [waits(world, name, share, which) for which in left_out])
    assert {count for each in every for count, _ in each} == {times}
    right, *wrong = (together([each[i][1] for each in every]) for i in range(times + 1))
    assert all(np.allclose(right[each], alone[each], rtol=1e-10) for each in alone)
    for found in wrong:
        assert not all(np.allclose(found[each], alone[each], rtol=1e-6) for each in alone)


def in_float32(world: World, name: str, classes: int, offset: float) -> dict[str, np.ndarray]:
    """Return losses and gradients of rows of all classes, whose logits share an offset."""
    head = make_head(HEADS[name], classes, world).float()
    if not isinstance(head, CosineHead):
        torch.nn.init.constant_(head.bias, offset)
    generator = torch.Generator().manual_seed(2)
    labels, rows = torch.arange(40) % classes, torch.randn(40, DIM, generator=generator)
    own = world.span(counts := world.counts(40))
    values = rows[own].clone().requires_grad_()
    losses = head(values, labels[own], counts)
    losses.sum().backward()
    found = {"losses": losses.detach(), "features": values.grad, "of W": head.weight.grad}
    return {name: tensor.numpy() for name, tensor in found.items()}


@pytest.mark.parametrize(("size", "classes"), [(2, 30), (3, 1)])
@pytest.mark.parametrize("name", HEADS)
def test_float32_loses_nothing_by_processes(name: str, size: int, classes: int) -> None:
    offsets = (-16384.0, 0.0, 16384.0)
    worlds = run_world(size, lambda world: [in_float32(world, name, classes, o) for o in offsets])
    for number, offset in enumerate(offsets):
        alone = in_float32(World(), name, classes, offset)
        ours = together([each[number] for each in worlds])
        assert (ours["losses"] >= 0).all()
        np.testing.assert_allclose(ours["losses"], alone["losses"], rtol=1e-5, atol=2e-3)
        for each in ("features", "of W"):
            np.testing.assert_allclose(ours[each], alone[each], rtol=1e-5, atol=2e-5, err_msg=each)


@pytest.mark.parametrize("name", HEADS)
def test_classes_whose_logits_are_far_apart_have_finite_gradients(name: str) -> None:
    """In float32 e^-128, what a process with the wrong classes has of a row, is nothing."""

    def walk(world: World) -> dict[str, np.ndarray]:
        head = make_head(HEADS[name], 2, world, dim=2).float()
        with torch.no_grad():
            head.weight.copy_(torch.tensor([[300.0, 0], [-300.0, 0]])[head.owned])
        counts = world.counts(4)
        values = torch.tensor([[1.0, 0], [1, 1e-3], [-1, 0], [1, 0]])[world.span(counts)]
        values.requires_grad_()
        losses = head(values, torch.tensor([0, 1, 1, 1])[world.span(counts)], counts)
        losses.sum().backward()
        found = {"losses": losses.detach(), "features": values.grad, "of W": head.weight.grad}
        return {name: tensor.numpy() for name, tensor in found.items()}

    alone, ours = walk(World()), together(run_world(2, walk))
    for each, expected in alone.items():
        assert np.isfinite(ours[each]).all()
        np.testing.assert_allclose(ours[each], expected, rtol=1e-5, atol=1e-5)


def test_all_classes_chosen_are_as_good_as_none_chosen() -> None:
    for case in CASES:
        classes, features, labels, _ = rows_of(case)
        plain, sampled = (make_head(HEADS["arcface"], classes, World()) for _ in range(2))
        assert isinstance(sampled, CosineHead)
        sampled.choose(torch.arange(classes))
        losses = [head(features, labels) for head in (plain, sampled)]
        assert torch.equal(*losses)
        for each in losses:
            each.sum().backward()
        assert torch.equal(plain.weight.grad, sampled._rows.grad)


OPTIMIZERS = {
    "sgd": lambda p: SGD(p, 0.1, 0.9, weight_decay=0.1),
    "sgd without momentum": lambda p: SGD(p, 0.1, weight_decay=0.1),
    "adamw": lambda p: AdamW(p, 0.1, weight_decay=0.1),
}


def learn(world: World, optimizer_name: str, draws: list[list[int]]) -> np.ndarray:
    """Return this process's weights after a step on each set of classes."""
    head = make_head(HEADS["arcface"], 7, world)
    assert isinstance(head, CosineHead)
    optimizer = OPTIMIZERS[optimizer_name](head.parameters())
    generator = torch.Generator().manual_seed(8)
    for draw in draws:
        features = torch.randn(6, DIM, dtype=torch.float64, generator=generator)
        labels = torch.tensor(draw)[torch.randint(len(draw), (6,), generator=generator)]
        counts = world.counts(6)
        head.choose(torch.tensor(draw))
        optimizer.zero_grad()
        head(features[world.span(counts)], labels[world.span(counts)], counts).sum().backward()
        with head.updated_by(optimizer):
            optimizer.step()
        assert head.weight.shape == (head.owned.stop - head.owned.start, DIM)
        assert head.chosen is None
    return head.weight.detach().numpy()


DRAWS = [[0, 2, 3], [1, 2, 6], [2, 3, 4], [0, 1, 2, 3, 4, 6], [2, 3]]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_chosen_rows_are_updated_as_if_there_were_no_others(name: str) -> None:
    """Momentum and decay included: a row sleeps while it is not chosen."""
    found = learn(World(), name, DRAWS)
    torch.manual_seed(3)
    start = make_head(HEADS["arcface"], 7, World()).weight.detach().numpy()
    assert (found[5] == start[5]).all()
    assert (found[[0, 1, 2, 3, 4, 6]] != start[[0, 1, 2, 3, 4, 6]]).all()
    if name == "adamw":
        return  # its count of steps is one of the whole head
    # row by row: an optimiser of its own, that steps only when the row is chosen
    expected = make_head(HEADS["arcface"], 7, World())
    rows = [torch.nn.Parameter(row.clone()) for row in expected.weight.detach()]
    each: list[Optimizer] = [OPTIMIZERS[name]([row]) for row in rows]
    generator = torch.Generator().manual_seed(8)
    for draw in DRAWS:
        features = torch.randn(6, DIM, dtype=torch.float64, generator=generator)
        labels = torch.tensor(draw)[torch.randint(len(draw), (6,), generator=generator)]
        expected.weight.data = torch.stack([row.detach() for row in rows])
        expected.choose(torch.tensor(draw))
        expected(features, labels).sum().backward()
        for place, row in enumerate(draw):
            rows[row].grad = expected._rows.grad[place]
            each[row].step()
    np.testing.assert_allclose(found, torch.stack(rows).detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("size", [2, 4])
def test_updates_of_chosen_rows_are_those_of_one_process(size: int) -> None:
    found = run_world(size, lambda world: [learn(world, name, DRAWS) for name in OPTIMIZERS])
    for number, name in enumerate(OPTIMIZERS):
        ours = np.concatenate([each[number] for each in found])
        np.testing.assert_allclose(ours, learn(World(), name, DRAWS), rtol=1e-10)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_size_of_the_parts_changes_no_bit_of_an_update(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    expected = learn(World(), name, DRAWS)
    for rows in (1, 2, 4):
        monkeypatch.setattr("mixbct.heads.margin_softmax.CACHED", rows * DIM)
        assert (learn(World(), name, DRAWS) == expected).all()
