import math

import pytest
import torch
import torch.nn.functional as F
from small_task import PROGRESS, make_head, make_task

from mixbct.methods import Features
from mixbct.methods.l2 import L2, distances
from mixbct.recipe import L2Settings, WeakenedL2Settings


def rows() -> tuple[Features, Features]:
    torch.manual_seed(2)
    labels = torch.randint(6, (9,))
    old = F.normalize(torch.randn(9, 8, dtype=torch.float64))
    # some near their old feature, some far from it
    new = 3 * old + torch.linspace(0, 4, 9)[:, None] * torch.randn(9, 8, dtype=torch.float64)
    return Features(new, labels), Features(old, labels)


def slow_distances(new: Features, old: Features) -> list[float]:
    found = []
    for f, o in zip(new.values.tolist(), old.values.tolist(), strict=True):
        norm = math.sqrt(sum(x * x for x in f))
        found.append(math.sqrt(sum((x / norm - y) ** 2 for x, y in zip(f, o, strict=True))))
    return found


@pytest.mark.parametrize("squared", [False, True])
def test_l2_equals_a_loop(squared: bool) -> None:
    new, old = rows()
    method = L2(L2Settings(name="l2", bank="b", weight=7.0, squared=squared), make_task())  # type: ignore[arg-type]
    losses = method.losses(new, old, make_head().double(), PROGRESS)
    apart = slow_distances(new, old)
    expected = 7 * sum(d * d if squared else d for d in apart) / 9
    assert losses["l2"].item() == pytest.approx(expected, rel=1e-12)
    head = make_head().double()
    rows_alone = [
        head(f[None], y[None]).item() for f, y in zip(new.values, new.labels, strict=True)
    ]
    assert losses["classification"].item() == pytest.approx(sum(rows_alone) / 9, rel=1e-9)


def test_weakened_l2_equals_a_loop() -> None:
    new, old = rows()
    settings = WeakenedL2Settings(name="weakened_l2", bank="b", weight=3.0, slack=0.6)  # type: ignore[arg-type]
    loss = L2(settings, make_task()).losses(new, old, make_head().double(), PROGRESS)["l2"]
    beyond = [max(d - 0.6, 0.0) for d in slow_distances(new, old)]
    assert 0 < sum(b == 0 for b in beyond) < 9
    assert loss.item() == pytest.approx(3 * sum(beyond) / 9, rel=1e-12)


@pytest.mark.parametrize("kind", ["l2", "squared", "weakened"])
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    new, old = rows()
    if kind == "weakened":
        settings = WeakenedL2Settings(name="weakened_l2", bank="b", slack=0.6)  # type: ignore[arg-type]
        method = L2(settings, make_task())
    else:
        method = L2(L2Settings(name="l2", bank="b", squared=kind == "squared"), make_task())  # type: ignore[arg-type]
    head = make_head().double()

    def loss(values: torch.Tensor) -> torch.Tensor:
        return method.losses(Features(values, new.labels), old, head, PROGRESS)["l2"]

    # the first row lies on its old feature, where the distance has a kink
    assert torch.autograd.gradcheck(
        lambda v: loss(torch.cat([new.values[:1] + 0.5, v])), new.values[1:].requires_grad_()
    )


def test_no_distance_gives_no_gradient_and_no_nan() -> None:
    values = F.normalize(torch.randn(3, 8)).requires_grad_()
    distances(values, F.normalize(values).detach()).sum().backward()
    assert values.grad is not None
    assert values.grad.abs().max() == 0
