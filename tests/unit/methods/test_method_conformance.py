"""What the loop expects of every method in METHODS."""

from typing import Any

import numpy as np
import pytest
import torch
from small_task import BATCH, DIM, PROGRESS, make_head, make_task
from torch import nn

from mixbct.errors import BankError
from mixbct.methods import METHODS, Features, Method, Progress, Task
from mixbct.methods.mapped import Map, Mapped
from mixbct.methods.method import StepPlan
from mixbct.recipe import (
    AdvBCTSettings,
    BCTSettings,
    IndependentSettings,
    L2Settings,
    MixBCTSettings,
    NCCLSettings,
    UniBCTSettings,
    WeakenedL2Settings,
)

BANK: dict[str, Any] = {"bank": "bank"}
SETTINGS: dict[str, Any] = {
    "independent": IndependentSettings(name="independent"),
    "l2": L2Settings(name="l2", **BANK),
    "l2, squared": L2Settings(name="l2", squared=True, **BANK),
    "weakened_l2": WeakenedL2Settings(name="weakened_l2", **BANK),
    "bct": BCTSettings(name="bct", **BANK),
    "unibct": UniBCTSettings(name="unibct", refresh=[1, 3], **BANK),
    "nccl": NCCLSettings(name="nccl", queue=64, **BANK),
    "advbct": AdvBCTSettings(name="advbct", **BANK),
    "mixbct, replace": MixBCTSettings(name="mixbct", draw="replace", **BANK),
    "mixbct, skip": MixBCTSettings(name="mixbct", draw="skip", **BANK),
    "mixbct, bank": MixBCTSettings(name="mixbct", draw="bank", **BANK),
    "mixbct, contrast": MixBCTSettings(name="mixbct", draw="bank", contrast=1.0, **BANK),
    "mixbct, own partners": MixBCTSettings(
        name="mixbct", draw="bank", contrast=1.0, partner="own", **BANK
    ),
    "mixbct, readout": MixBCTSettings(
        name="mixbct", draw="bank", contrast=1.0, readout=2.0, **BANK
    ),
    "mixbct, gallery map": MixBCTSettings(
        name="mixbct", draw="replace", gallery_map="projection", **BANK
    ),
}


MAPS: dict[int, Map | None] = {DIM: None, DIM + 4: "prefix", DIM - 3: "projection"}
CASES = {
    name + (f", {dim}-d by {kind}" if kind else ""): (name, dim)
    for name in SETTINGS
    for dim, kind in MAPS.items()
    if kind is None or name != "independent"
}
"""Every method with new features of the old dimension, and of a larger and a smaller one."""


def build(case: str, task: Task, seed: int = 5) -> Method:
    torch.manual_seed(seed)
    name, dim = CASES[case]
    settings, kind = SETTINGS[name], MAPS[dim]
    if kind:
        settings = settings.model_copy(update={"query_map": kind, "full_weight": 1.0})
    method = METHODS[settings.name](settings, task)
    return Mapped(method, make_head(), dim) if kind else method


def kind_of(case: str) -> type[Method]:
    return METHODS[SETTINGS[CASES[case][0]].name]


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def method(name: str) -> Method:
    return build(name, make_task())


class Run:
    """The loop in ten lines: a linear backbone over fixed inputs, plain gradient steps."""

    def __init__(self, case: str, task: Task, seed: int = 3, method: Method | None = None) -> None:
        self.method, self.task, self.seed = method or build(case, task), task, seed
        dim = CASES[case][1]
        torch.manual_seed(1)
        self.inputs = torch.randn(len(task.labels), 5)
        self.backbone, self.head = nn.Linear(5, dim), make_head(dim=dim)

    def step(self, number: int) -> dict[str, float]:
        epoch, step = divmod(number, self.task.steps_per_epoch)
        if step == 0:
            self.method.on_epoch(epoch, lambda rows: self.backbone(self.inputs[rows]).detach())
        plan = self.method.plan(self.seed, epoch, step)
        rows = plan.forward_rows[: plan.trained]
        new = Features(self.backbone(self.inputs[rows]), torch.from_numpy(self.task.labels[rows]))
        losses = self.method.losses(new, self.old(plan), self.head, Progress(epoch, 4, number / 20))
        parameters = [
            *self.backbone.parameters(),
            *self.head.parameters(),
            *self.method.parameters(),
        ]
        gradients = torch.autograd.grad(sum(losses.values()), parameters, allow_unused=True)  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter -= 0.05 * gradient
        return {loss: value.item() for loss, value in losses.items()}

    def old(self, plan: StepPlan) -> Features:
        if self.task.old is None or len(plan.old_rows) == 0:
            return Features(torch.empty(0, DIM), torch.from_numpy(plan.old_labels))
        read = torch.from_numpy(self.task.old.read(plan.old_rows))
        return Features(read, torch.from_numpy(plan.old_labels))


def test_every_method_is_covered() -> None:
    assert {s.name for s in SETTINGS.values()} == set(METHODS)


def test_plans_are_pure(method: Method) -> None:
    first = [method.plan(3, epoch, step) for epoch in range(3) for step in range(5)]
    again = [method.plan(3, epoch, step) for epoch in range(3) for step in range(5)]
    for a, b in zip(first, again, strict=True):
        for field in ("forward_rows", "forward_labels", "old_rows", "old_labels"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
        assert a.trained == b.trained


def test_another_seed_or_epoch_gives_another_plan(method: Method) -> None:
    plan = method.plan(3, 0, 0)
    assert set(plan.forward_rows) != set(method.plan(4, 0, 0).forward_rows)
    assert set(plan.forward_rows) != set(method.plan(3, 1, 0).forward_rows)


def test_plans_carry_the_rows_labels(method: Method) -> None:
    task = make_task()
    assert task.old is not None
    for step in range(5):
        plan = method.plan(0, 0, step)
        np.testing.assert_array_equal(plan.forward_labels, task.labels[plan.forward_rows])
        np.testing.assert_array_equal(plan.old_labels, task.old.labels[plan.old_rows])
        assert 0 < plan.trained <= len(plan.forward_rows) <= BATCH


def test_an_epoch_takes_no_row_twice(method: Method) -> None:
    rows = np.concatenate([method.plan(0, 0, step).forward_rows for step in range(5)])
    assert len(set(rows)) == len(rows)


def test_old_rows_come_with_a_declared_need(name: str, method: Method) -> None:
    if any(len(method.plan(0, 0, step).old_rows) for step in range(5)):
        assert "old" in kind_of(name).needs


# a paired bank has every class
WITHOUT = [(name, (1, 4)) for name in ("bct", "advbct", "mixbct, bank")]


@pytest.mark.parametrize(("name", "without"), [(name, ()) for name in CASES] + WITHOUT)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_losses_are_finite_scalars_with_gradients(
    name: str, dtype: str, without: tuple[int, ...]
) -> None:
    """Also where classes have no old feature, or (class 2) none that is credible."""
    task = make_task(paired=not without, dtype=dtype, without=without)
    run = Run(name, task)
    plan = run.method.plan(0, 0, 0)
    values = torch.randn(plan.trained, CASES[name][1], requires_grad=True)
    new = Features(values, torch.from_numpy(plan.forward_labels[: plan.trained]))
    losses = run.method.losses(new, run.old(plan), run.head, PROGRESS)
    assert losses
    for loss in losses.values():
        assert loss.shape == ()
        assert torch.isfinite(loss)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()
    assert values.grad.abs().sum() > 0


def test_a_run_is_deterministic_under_its_seed(name: str) -> None:
    task = make_task()
    runs = [Run(name, task) for _ in range(2)]
    curves = [[run.step(number) for number in range(12)] for run in runs]
    assert curves[0] == curves[1]
    other = Run(name, task, seed=4)
    assert [other.step(number) for number in range(12)] != curves[0]


@pytest.mark.parametrize("stop", [5, 8])
def test_a_run_resumes_from_its_state(name: str, stop: int) -> None:
    """Stopped between two epochs, and in the middle of one."""
    task = make_task()
    whole = Run(name, task)
    for number in range(stop):
        whole.step(number)
    resumed = Run(name, task, method=build(name, task, seed=77))
    for part in ("backbone", "head", "method"):
        state = {k: v.clone() for k, v in getattr(whole, part).state_dict().items()}
        getattr(resumed, part).load_state_dict(state)
    rest = range(stop, 17)
    assert [resumed.step(n) for n in rest] == [whole.step(n) for n in rest]


def test_what_is_needed_is_declared(name: str) -> None:
    """A method gets by with what it declares, and says so where that is missing."""
    kind = kind_of(name)
    whole = make_task()
    assert whole.old is not None
    old = whole.old if "old" in kind.needs or "paired_old" in kind.needs else None
    if old is not None and "credible" not in kind.needs:
        old = type(old)(old.labels, old.paired, old.read)
    declared = Task(
        whole.labels,
        BATCH,
        old,
        whole.prototypes if "prototypes" in kind.needs else None,
        whole.class_stats if "class_stats" in kind.needs else None,
    )
    run = Run(name, declared)
    for number in range(12):
        run.step(number)
    if kind.needs:
        with pytest.raises(BankError, match=r"needs .*method\.bank"):
            build(name, Task(whole.labels, BATCH))
