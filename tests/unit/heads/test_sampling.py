"""Class sampling, and margin softmax in as many parts as it takes."""

import math

import pytest
import torch
import torch.nn.functional as F

from mixbct.heads.classifier import CosineHead, sample_classes
from mixbct.recipe import ArcFaceSettings

CLASSES, DIM, ROWS = 40, 6, 9


def arcface(scale: float, sample: float = 1.0) -> ArcFaceSettings:
    return ArcFaceSettings(name="arcface", scale=scale, margin=0.4, sample=sample)


def make_head(sample: float = 1.0) -> CosineHead:
    torch.manual_seed(0)
    return CosineHead(CLASSES, DIM, arcface(8.0, sample)).double()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    features = torch.randn(ROWS, DIM, dtype=torch.float64, requires_grad=True)
    return features, torch.tensor([3, 39, 3, 0, 17, 17, 5, 21, 39])


def plain_losses(
    head: CosineHead, features: torch.Tensor, labels: torch.Tensor, among: list[int]
) -> torch.Tensor:
    """Return the losses row by row over the classes `among`, from the formula."""
    losses = []
    for feature, label in zip(features, labels.tolist(), strict=True):
        cosines = [F.cosine_similarity(feature, head.weight[c], dim=0) for c in among]
        place = among.index(label)
        angle = torch.acos(cosines[place])
        assert angle + head.settings.margin < math.pi
        cosines[place] = torch.cos(angle + head.settings.margin)
        losses.append(
            F.cross_entropy(head.settings.scale * torch.stack(cosines), torch.tensor(place))
        )
    return torch.stack(losses)


@pytest.mark.parametrize("sample", [1.0, 0.5, 0.1])
def test_losses_and_gradients_are_those_of_a_slow_loop_over_the_sample(sample: float) -> None:
    head, (features, labels) = make_head(sample), batch()
    among = list(range(CLASSES))
    if sample < 1:
        torch.manual_seed(7)
        among = sample_classes(labels, CLASSES, sample).tolist()
    torch.manual_seed(7)
    weights = torch.linspace(0.5, 2, ROWS, dtype=torch.float64)
    ours = head(features, labels)
    found = torch.autograd.grad((ours * weights).sum(), [features, head.weight])
    slow = plain_losses(head, features, labels, among)
    expected = torch.autograd.grad((slow * weights).sum(), [features, head.weight])
    torch.testing.assert_close(ours, slow, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
    rest = [c for c in range(CLASSES) if c not in among]
    assert not found[1][rest].any()


def test_the_sample_has_the_labels_classes_and_as_many_others_as_asked_for() -> None:
    _, labels = batch()
    own = set(labels.tolist())
    seen: set[int] = set()
    for seed in range(60):
        torch.manual_seed(seed)
        chosen = sample_classes(labels, CLASSES, 0.3).tolist()
        assert chosen == sorted(set(chosen))
        assert own < set(chosen)
        assert len(chosen) == 12
        seen |= set(chosen)
    assert seen == set(range(CLASSES))
    # all classes of the rows, however small the share
    assert set(sample_classes(labels, CLASSES, 0.05).tolist()) == own


def test_a_sample_is_a_function_of_torchs_seed() -> None:
    _, labels = batch()
    drawn = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        drawn.append(sample_classes(labels, CLASSES, 0.5))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("cached", [1, 100, 10_000])
def test_the_size_of_the_parts_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, cached: int
) -> None:
    features, labels = batch()
    expected = torch.autograd.grad(make_head()(features, labels).sum(), features)
    monkeypatch.setattr("mixbct.heads.margin_softmax.CACHED", cached)
    head = make_head()
    loss = head(features, labels).sum()
    assert torch.equal(torch.autograd.grad(loss, features, retain_graph=True)[0], expected[0])
    # a second walk over the same graph finds it as the first did
    assert torch.equal(torch.autograd.grad(loss, features)[0], expected[0])


def test_scales_at_which_a_bare_exponential_overflows() -> None:
    torch.manual_seed(0)
    head = CosineHead(CLASSES, DIM, arcface(512.0))
    features, labels = batch()
    values = features.detach().float().requires_grad_()
    losses = head(values, labels)
    (gradient,) = torch.autograd.grad(losses.sum(), values)
    assert torch.isfinite(losses).all()
    assert torch.isfinite(gradient).all()
    slow = plain_losses(head, values, labels, list(range(CLASSES)))
    torch.testing.assert_close(losses, slow, rtol=1e-4, atol=1e-2)
