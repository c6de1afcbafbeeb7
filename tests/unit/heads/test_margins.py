import math

import pytest
import torch

from mixbct.heads.margins import arcface, cosface


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5])
def test_arcface_is_the_cosine_of_the_widened_angle(margin: float) -> None:
    cosines = torch.linspace(-0.9999, 0.9999, 999, dtype=torch.float64)
    expected = [
        math.cos(math.acos(c) + margin)
        if math.acos(c) + margin < math.pi
        else c - margin * math.sin(margin)
        for c in cosines.tolist()
    ]
    torch.testing.assert_close(
        arcface(cosines, margin), torch.tensor(expected, dtype=torch.float64)
    )


def test_arcface_falls_as_the_angle_grows() -> None:
    values = arcface(torch.linspace(1, -1, 2001, dtype=torch.float64), 0.5)
    assert (values.diff() < 0).all()


@pytest.mark.parametrize("function", [arcface, cosface])
def test_gradients_are_those_of_finite_differences(function: object) -> None:
    # one point beyond the branch (θ + m > π), none on it
    cosines = torch.tensor([-0.97, -0.5, 0.0, 0.4, 0.999], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: function(c, 0.5), cosines)  # type: ignore[operator]


@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_arcface_has_bounded_gradients_at_the_ends(end: float) -> None:
    cosine = torch.tensor([end], requires_grad=True)
    arcface(cosine, 0.5).sum().backward()
    assert cosine.grad is not None
    assert torch.isfinite(cosine.grad).all()
    assert cosine.grad.abs().item() <= 1001


def test_cosface_subtracts_the_margin() -> None:
    assert cosface(torch.tensor([0.5]), 0.2).item() == pytest.approx(0.3)
