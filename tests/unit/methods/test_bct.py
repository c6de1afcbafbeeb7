import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from small_task import CLASSES, DIM, PROGRESS, make_head, make_task

from mixbct.errors import RecipeError
from mixbct.features.prototypes import ClassDirections
from mixbct.heads.classifier import LinearHead
from mixbct.methods import Features
from mixbct.methods.bct import BCT, Influence
from mixbct.recipe import BCTSettings

KNOWN = torch.tensor([True, True, False, True, True, False])


def rows() -> Features:
    torch.manual_seed(2)
    return Features(torch.randn(9, DIM, dtype=torch.float64), torch.arange(9) % CLASSES)


def directions() -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(CLASSES, DIM) * KNOWN[:, None]


def slow_influence(new: Features, scale: float) -> list[float]:
    found = []
    for f, y in zip(new.values.tolist(), new.labels.tolist(), strict=True):
        if not KNOWN[y]:
            found.append(0.0)
            continue
        logits = {}
        for c, p in enumerate(directions().double().tolist()):
            if KNOWN[c]:
                dot = sum(a * b for a, b in zip(f, p, strict=True))
                logits[c] = scale * dot / (math.hypot(*f) * math.hypot(*p))
        found.append(math.log(sum(math.exp(z) for z in logits.values())) - logits[y])
    return found


@pytest.mark.parametrize("scaled", [True, False])
def test_the_losses_equal_a_loop(scaled: bool) -> None:
    new, head = rows(), make_head(scale=16.0).double()
    task = dataclasses.replace(make_task(), prototypes=ClassDirections(directions(), KNOWN))
    method = BCT(BCTSettings(name="bct", bank="b", weight=0.7, scaled=scaled), task)  # type: ignore[arg-type]
    losses = method.losses(new, new, head, PROGRESS)
    expected = 0.7 * sum(slow_influence(new, 16.0 if scaled else 1.0)) / 9
    assert losses["influence"].item() == pytest.approx(expected, rel=1e-6)
    alone = [head(f[None], y[None]).item() for f, y in zip(new.values, new.labels, strict=True)]
    assert losses["classification"].item() == pytest.approx(sum(alone) / 9, rel=1e-9)


def test_gradients_are_those_of_finite_differences() -> None:
    new, influence = rows(), Influence(directions().double(), KNOWN)
    assert torch.autograd.gradcheck(
        lambda v: influence(dataclasses.replace(new, values=v), 16.0),
        new.values.requires_grad_(),
    )


def test_without_a_known_class_there_is_no_influence() -> None:
    new = rows()
    values = new.values.requires_grad_()
    none = Influence(directions(), torch.zeros(CLASSES, dtype=torch.bool))
    found = none(dataclasses.replace(new, values=values), 16.0)
    found.sum().backward()
    assert found.tolist() == [0.0] * 9
    assert not values.grad.any()  # type: ignore[union-attr]


def test_old_weights_come_before_means() -> None:
    task = make_task(paired=False, without=(1, 4))
    assert task.prototypes is not None
    weights = ClassDirections(
        F.normalize(torch.ones(CLASSES, DIM)) * torch.tensor([[1.0], [1], [0], [0], [0], [0]]),
        torch.tensor([True, True, False, False, False, False]),
    )
    method = BCT(
        BCTSettings(name="bct", bank="b"),  # type: ignore[arg-type]
        dataclasses.replace(task, old_classifier=weights),
    )
    torch.testing.assert_close(method.influence.directions[:2], weights.values[:2])
    torch.testing.assert_close(method.influence.directions[2:], task.prototypes.values[2:])
    assert method.influence.known.tolist() == [True, True, True, True, False, True]


def test_a_head_without_cosines_is_refused() -> None:
    method = BCT(BCTSettings(name="bct", bank="b"), make_task())  # type: ignore[arg-type]
    new = Features(torch.randn(3, DIM), torch.arange(3))
    with pytest.raises(RecipeError, match="'arcface' or 'cosface'"):
        method.losses(new, new, LinearHead(CLASSES, DIM), PROGRESS)
