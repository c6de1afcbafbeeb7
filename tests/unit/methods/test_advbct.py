import math

import pytest
import torch
import torch.nn.functional as F
from small_task import CLASSES, DIM, make_head, make_task

from mixbct.methods import Features, Progress
from mixbct.methods.advbct import AdvBCT, beyond_boundary, reversal, reverse_gradient
from mixbct.recipe import AdvBCTSettings

PROGRESS = Progress(epoch=2, epochs=5, done=0.4)


def build(**more: object) -> AdvBCT:
    torch.manual_seed(0)
    return AdvBCT(AdvBCTSettings(name="advbct", bank="b", **more), make_task()).double()  # type: ignore[arg-type]


def rows() -> tuple[Features, Features]:
    torch.manual_seed(2)
    labels = torch.arange(9) % CLASSES
    old = F.normalize(torch.randn(9, DIM, dtype=torch.float64))
    means = build().means[labels]
    return Features(3 * means + 0.4 * torch.randn_like(old), labels), Features(old, labels)


@pytest.mark.parametrize("mean_over", ["batch", "outside"])
def test_the_boundary_loss_equals_a_loop(mean_over: str) -> None:
    method, (new, old) = build(mean_over=mean_over, boundary_weight=3.0), rows()
    method.radii[:] = torch.tensor([0.1, 0.5, 0.9, 0.3, 0.2, 0.4])
    method.bounded[3] = False
    losses = method.losses(new, old, make_head().double(), PROGRESS)
    outside = []
    for f, y in zip(new.values.tolist(), new.labels.tolist(), strict=True):
        norm = math.hypot(*f)
        apart = math.dist([x / norm for x in f], method.means[y].tolist())
        radius = method.radii[y].item()
        stretch = abs(radius - 0.4) / (1 + math.exp(-method.elasticity[y].item()))
        boundary = radius + stretch if radius < 0.4 else radius - stretch
        outside.append(max(apart - boundary, 0.0) if y != 3 else 0.0)
    count = sum(d > 0 for d in outside)
    assert 0 < count < 8
    by = 9 if mean_over == "batch" else count
    assert losses["boundary"].item() == pytest.approx(3 * sum(outside) / by, rel=1e-9)


def test_the_adversarial_loss_equals_a_loop() -> None:
    method, (new, old) = build(adversarial_weight=4.0), rows()
    loss = method.losses(new, old, make_head().double(), PROGRESS)["adversarial"]
    first, _, _, last = method.discriminator
    total = 0.0
    for kind, part in enumerate((F.normalize(new.values), old.values)):
        hidden = [
            [
                sum(w * x for w, x in zip(ws, row, strict=True)) + b
                for ws, b in zip(first.weight.tolist(), first.bias.tolist(), strict=True)
            ]
            for row in part.tolist()
        ]
        columns = list(zip(*hidden, strict=True))
        means = [sum(c) / 9 for c in columns]
        variances = [sum((x - m) ** 2 for x in c) / 9 for c, m in zip(columns, means, strict=True)]
        for row in hidden:
            active = [
                max((x - m) / math.sqrt(v + 1e-5), 0)
                for x, m, v in zip(row, means, variances, strict=True)
            ]
            logits = [
                sum(w * x for w, x in zip(ws, active, strict=True)) + b
                for ws, b in zip(last.weight.tolist(), last.bias.tolist(), strict=True)
            ]
            total -= logits[kind] - math.log(sum(math.exp(z) for z in logits))
    # epoch 2 of 5, from 0: (5 − 2 + 1)/5
    assert loss.item() == pytest.approx(4 * 0.8 * total / 9, rel=1e-9)


def test_the_boundarys_gradients_are_those_of_finite_differences() -> None:
    method, (new, _) = build(), rows()

    def outside(values: torch.Tensor, elasticity: torch.Tensor) -> torch.Tensor:
        boundaries = method.radii / 2 + 0.1 * elasticity.sigmoid()
        return beyond_boundary(values, new.labels, method.means, boundaries, method.bounded)

    weights = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)
    assert (outside(new.values, weights) > 0).any()
    assert torch.autograd.gradcheck(outside, (new.values.requires_grad_(), weights))


def test_the_backbones_adversarial_gradient_is_the_negated_one_of_finite_differences() -> None:
    method, (new, old) = build(), rows()
    head = make_head().double()

    def loss(values: torch.Tensor) -> torch.Tensor:
        return method.losses(Features(values, new.labels), old, head, PROGRESS)["adversarial"]

    values = new.values.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(values), values)
    by = reversal(0.4)
    with torch.no_grad():
        for i, j in ((0, 0), (3, 5), (8, 7)):
            step = torch.zeros_like(values)
            step[i, j] = 1e-6
            slope = (loss(values + step) - loss(values - step)) / 2e-6
            assert gradient[i, j].item() == pytest.approx(-by * slope.item(), rel=1e-5)


def test_the_discriminators_own_gradient_is_not_reversed() -> None:
    method, (new, old) = build(), rows()
    head = make_head().double()
    bias = method.discriminator[3].bias
    loss = method.losses(new, old, head, PROGRESS)["adversarial"]
    (gradient,) = torch.autograd.grad(loss, bias)
    with torch.no_grad():
        bias -= 0.01 * gradient
        assert method.losses(new, old, head, PROGRESS)["adversarial"] < loss


def test_reversal() -> None:
    values = torch.randn(3, 4, requires_grad=True)
    (2 * reverse_gradient(values, 0.3)).sum().backward()
    torch.testing.assert_close(values.grad, torch.full((3, 4), -0.6))
    assert reversal(0.0) == 0
    assert reversal(0.1) == pytest.approx(math.tanh(0.5))
    assert reversal(1.0) == pytest.approx(1, abs=1e-4)


def test_any_bank_will_do() -> None:
    task = make_task(paired=False, without=(1, 4))
    method = AdvBCT(AdvBCTSettings(name="advbct", bank="b"), task)  # type: ignore[arg-type]
    drawn = [method.plan(0, 0, step).old_rows for step in range(5)]
    assert all(len(rows) == 20 for rows in drawn)
    assert set(drawn[0]) != set(drawn[1])
    assert method.bounded.tolist() == [True, False, True, True, False, True]
    new = Features(torch.randn(4, DIM), torch.tensor([1, 4, 1, 4]))
    old = Features(F.normalize(torch.randn(4, DIM)), torch.tensor([-1, -1, 0, 2]))
    assert method.losses(new, old, make_head(), PROGRESS)["boundary"] == 0
