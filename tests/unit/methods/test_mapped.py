"""The loss behind a query map, against a loop over samples; its gradient by finite differences."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from small_task import BATCH, CLASSES, DIM, PROGRESS, make_head, make_task
from torch import Tensor

from mixbct.errors import RecipeError
from mixbct.methods import Features
from mixbct.methods.l2 import L2
from mixbct.methods.mapped import Map, Mapped
from mixbct.methods.method import Method
from mixbct.methods.mixbct import MixBCT
from mixbct.methods.unibct import UniBCT
from mixbct.recipe import L2Settings, MixBCTSettings, UniBCTSettings

WEIGHT = 0.6


def mapped(dim: int, method: str = "mixbct", kind: Map = "projection") -> Mapped:
    task = make_task()
    given: dict[str, Any] = {"bank": "bank", "query_map": kind, "full_weight": WEIGHT}
    inner: Method
    if method == "mixbct":
        inner = MixBCT(MixBCTSettings(name="mixbct", ratio=0.4, **given), task)
    else:
        inner = L2(L2Settings(name="l2", **given), task)
    torch.manual_seed(2)
    return Mapped(inner, make_head(), dim)


def batch(dim: int, paired: bool = False) -> tuple[Features, Features]:
    torch.manual_seed(4)
    new = Features(torch.randn(9, dim).double(), torch.randint(0, CLASSES, (9,)))
    old = torch.nn.functional.normalize(torch.randn(9, DIM).double())
    return new, Features(old, new.labels if paired else torch.randint(0, CLASSES, (9,)))


def slow_arcface(feature: list[float], label: int, weights: list[list[float]]) -> float:
    """Return one row's loss with s = 8 and m = 0.5, as the formula says."""

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    logits = [8 * cosine(feature, w) for w in weights]
    logits[label] = 8 * math.cos(math.acos(logits[label] / 8) + 0.5)
    return math.log(sum(map(math.exp, logits))) - logits[label]


def slow_map(feature: list[float], matrix: list[list[float]]) -> list[float]:
    return [sum(f * row[e] for f, row in zip(feature, matrix, strict=True)) for e in range(DIM)]


@pytest.mark.parametrize("dim", [DIM + 4, DIM - 3])
@pytest.mark.parametrize("kind", ["mixbct", "l2"])
def test_losses_are_those_of_a_slow_loop(kind: str, dim: int) -> None:
    method = mapped(dim, kind).double()
    full = make_head(dim=dim).double()
    new, old = batch(dim, paired=kind == "l2")
    losses = method.losses(new, old, full, PROGRESS)
    matrix, weights = method.query_map().tolist(), method.head.weight.tolist()
    rows = [slow_map(f, matrix) for f in new.values.tolist()]
    labels = new.labels.tolist()
    on_new = sum(slow_arcface(f, y, weights) for f, y in zip(rows, labels, strict=True))
    if kind == "mixbct":
        pairs = zip(old.values.tolist(), old.labels.tolist(), strict=True)
        on_old = sum(slow_arcface(o, y, weights) for o, y in pairs)
        assert losses["mixed"].item() == pytest.approx((on_new + on_old) / 18)
    else:
        assert losses["classification"].item() == pytest.approx(on_new / 9)
        apart = [
            math.dist([x / math.hypot(*f) for x in f], o)
            for f, o in zip(rows, old.values.tolist(), strict=True)
        ]
        assert losses["l2"].item() == pytest.approx(10 * sum(apart) / 9)
    own = full.weight.tolist()
    alone = sum(slow_arcface(f, y, own) for f, y in zip(new.values.tolist(), labels, strict=True))
    assert losses["full"].item() == pytest.approx(WEIGHT * alone / 9)


@pytest.mark.parametrize("dim", [DIM + 4, DIM - 3])
def test_gradients_of_features_map_and_head(dim: int) -> None:
    method = mapped(dim).double()
    full = make_head(dim=dim).double()
    new, old = batch(dim)

    def total(values: Tensor, matrix: Tensor, weight: Tensor) -> Tensor:
        losses = torch.func.functional_call(
            method, {"matrix": matrix, "head.weight": weight}, (values,), strict=False
        )
        return torch.stack([*losses.values()]).sum()

    def forward(values: Tensor) -> dict[str, Tensor]:
        return dict(method.losses(Features(values, new.labels), old, full, PROGRESS))

    method.forward = forward
    inputs = (new.values, method.matrix.detach(), method.head.weight.detach())
    assert torch.autograd.gradcheck(total, [t.clone().requires_grad_() for t in inputs])


def test_the_map_begins_orthonormal_and_is_trained() -> None:
    for dim in (DIM + 4, DIM - 3):
        method = mapped(dim)
        matrix = method.query_map()
        assert matrix.shape == (dim, DIM)
        small = matrix.t() @ matrix if dim > DIM else matrix @ matrix.t()
        torch.testing.assert_close(small, torch.eye(min(dim, DIM)), atol=1e-5, rtol=0)
        trained = dict(method.named_parameters())
        assert {"matrix", "head.weight"} <= set(trained)
        assert "matrix" in method.state_dict()


def test_a_prefix_is_the_first_coordinates_and_stays() -> None:
    method = mapped(DIM + 4, kind="prefix").double()
    new, old = batch(DIM + 4)
    full = make_head(dim=DIM + 4).double()
    losses = method.losses(new, old, full, PROGRESS)
    short = Features(new.values[:, :DIM], new.labels)
    alone = method.method.losses(short, old, method.head, PROGRESS)
    assert losses["mixed"].item() == pytest.approx(alone["mixed"].item())
    assert "matrix" not in dict(method.named_parameters())
    with pytest.raises(RecipeError, match=r"5 dimensions have no 8 first.*'projection'"):
        mapped(DIM - 3, kind="prefix")


def test_plans_are_those_of_the_method() -> None:
    method = mapped(DIM + 4)
    ours, theirs = method.plan(1, 2, 3), method.method.plan(1, 2, 3)
    np.testing.assert_array_equal(ours.forward_rows, theirs.forward_rows)
    np.testing.assert_array_equal(ours.old_rows, theirs.old_rows)
    assert len(ours.forward_rows) == BATCH


def test_what_looks_at_the_whole_set_sees_it_in_the_old_space() -> None:
    task = make_task()
    settings = UniBCTSettings(name="unibct", bank="bank", query_map="projection", refresh=[1])  # type: ignore[arg-type]
    alone, behind = UniBCT(settings, task), UniBCT(settings, task)
    method = Mapped(behind, make_head(), DIM + 4)
    features = torch.randn(len(task.labels), DIM + 4)
    method.on_epoch(1, lambda rows: features[rows])
    alone.on_epoch(1, lambda rows: features[rows] @ method.query_map())
    assert torch.equal(alone.influence.directions, behind.influence.directions)
    assert not torch.equal(alone.influence.directions, UniBCT(settings, task).influence.directions)
