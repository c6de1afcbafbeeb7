"""What the loop expects of every method in METHODS."""

import numpy as np
import pytest
import torch

from mixbct.heads.classifier import CosineHead, build_head
from mixbct.methods import METHODS, Features, Method, OldRows, Task
from mixbct.recipe import ArcFaceSettings, IndependentSettings, MixBCTSettings

BATCH, CLASSES, DIM = 20, 6, 8


def old_rows(labels: np.ndarray) -> OldRows:
    credible = np.arange(len(labels)) % 5 != 0
    credible[labels == 2] = False  # a class with no credible row
    return OldRows(labels, credible, paired=True)


def settings_of_every_method() -> list[object]:
    drawn = [
        MixBCTSettings(name="mixbct", bank="bank", draw=draw, ratio=0.3)  # type: ignore[arg-type]
        for draw in ("replace", "skip", "bank")
    ]
    return [IndependentSettings(name="independent"), *drawn]


@pytest.fixture(params=settings_of_every_method(), ids=lambda s: getattr(s, "draw", s.name))
def method(request: pytest.FixtureRequest) -> Method:
    labels = np.random.default_rng(0).integers(0, CLASSES, 107)
    return METHODS[request.param.name](request.param, Task(labels, BATCH, old_rows(labels)))


def head() -> CosineHead:
    torch.manual_seed(0)
    built = build_head(ArcFaceSettings(name="arcface", scale=8), CLASSES, DIM)
    assert isinstance(built, CosineHead)
    return built


def test_every_method_is_covered() -> None:
    assert {s.name for s in settings_of_every_method()} == set(METHODS)  # type: ignore[attr-defined]


def test_plans_are_pure(method: Method) -> None:
    first = [method.plan(3, epoch, step) for epoch in range(3) for step in range(5)]
    again = [method.plan(3, epoch, step) for epoch in range(3) for step in range(5)]
    for a, b in zip(first, again, strict=True):
        for name in ("forward_rows", "forward_labels", "old_rows", "old_labels"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert a.trained == b.trained


def test_another_seed_or_epoch_gives_another_plan(method: Method) -> None:
    plan = method.plan(3, 0, 0)
    assert set(plan.forward_rows) != set(method.plan(4, 0, 0).forward_rows)
    assert set(plan.forward_rows) != set(method.plan(3, 1, 0).forward_rows)


def test_plans_carry_the_rows_labels(method: Method) -> None:
    task = method.task  # type: ignore[attr-defined]
    for step in range(5):
        plan = method.plan(0, 0, step)
        np.testing.assert_array_equal(plan.forward_labels, task.labels[plan.forward_rows])
        np.testing.assert_array_equal(plan.old_labels, task.old.labels[plan.old_rows])
        assert 0 < plan.trained <= len(plan.forward_rows) <= BATCH


def test_an_epoch_takes_no_row_twice(method: Method) -> None:
    rows = np.concatenate([method.plan(0, 0, step).forward_rows for step in range(5)])
    assert len(set(rows)) == len(rows)


def test_losses_are_finite_scalars_with_gradients(method: Method) -> None:
    plan = method.plan(0, 0, 0)
    values = torch.randn(plan.trained, DIM, requires_grad=True)
    new = Features(values, torch.from_numpy(plan.forward_labels[: plan.trained]))
    old = torch.nn.functional.normalize(torch.randn(len(plan.old_rows), DIM))
    losses = method.losses(new, Features(old, torch.from_numpy(plan.old_labels)), head())
    assert losses
    for loss in losses.values():
        assert loss.shape == ()
        assert torch.isfinite(loss)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert values.grad is not None
    assert values.grad.abs().sum() > 0


def test_state_survives_a_round_trip(method: Method) -> None:
    state = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    method.load_state_dict(state)
    for name, tensor in method.state_dict().items():
        torch.testing.assert_close(tensor, state[name])
