import math

import pytest
import torch
from torch.func import functional_call

from mixbct.heads.classifier import LinearHead, build_head
from mixbct.recipe import ArcFaceSettings, CosFaceSettings, HeadSettings, SoftmaxSettings

SETTINGS: list[HeadSettings] = [
    ArcFaceSettings(name="arcface", scale=8.0, margin=0.4),
    CosFaceSettings(name="cosface", scale=8.0, margin=0.2),
    SoftmaxSettings(name="softmax"),
]


def slow_loss(
    settings: HeadSettings,
    feature: list[float],
    weights: list[list[float]],
    bias: list[float],
    label: int,
) -> float:
    """Return one row's loss from the formula, in plain Python floats."""

    def dot(a: list[float], b: list[float]) -> float:
        return math.fsum(x * y for x, y in zip(a, b, strict=True))

    if isinstance(settings, SoftmaxSettings):
        logits = [dot(feature, w) + b for w, b in zip(weights, bias, strict=True)]
    else:
        cosines = [dot(feature, w) / math.sqrt(dot(feature, feature) * dot(w, w)) for w in weights]
        m = settings.margin
        if isinstance(settings, CosFaceSettings):
            cosines[label] -= m
        else:
            angle = math.acos(cosines[label])
            inside = angle + m <= math.pi
            cosines[label] = math.cos(angle + m) if inside else cosines[label] - m * math.sin(m)
        logits = [settings.scale * c for c in cosines]
    top = max(logits)
    return top + math.log(math.fsum(math.exp(z - top) for z in logits)) - logits[label]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.name)
def test_row_losses_equal_a_slow_loop(settings: HeadSettings) -> None:
    torch.manual_seed(0)
    head = build_head(settings, classes=7, dim=5).double()
    bias = [0.0] * 7
    if isinstance(head, LinearHead):
        torch.nn.init.normal_(head.bias)
        bias = head.bias.tolist()
    features = torch.randn(30, 5, dtype=torch.float64)
    labels = torch.randint(7, (30,))
    losses = head(features, labels)
    slow = [
        slow_loss(settings, f, head.weight.tolist(), bias, y)
        for f, y in zip(features.tolist(), labels.tolist(), strict=True)
    ]
    torch.testing.assert_close(
        losses, torch.tensor(slow, dtype=torch.float64), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.name)
def test_gradients_equal_finite_differences(settings: HeadSettings) -> None:
    torch.manual_seed(1)
    head = build_head(settings, classes=4, dim=3).double()
    features = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 1, 0])

    names, parameters = zip(*head.named_parameters(), strict=True)

    def losses(values: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        state = dict(zip(names, tensors, strict=True))
        result: torch.Tensor = functional_call(head, state, (values, labels))
        return result

    assert torch.autograd.gradcheck(losses, (features, *parameters))


def test_a_feature_on_its_class_weight_has_finite_gradients() -> None:
    head = build_head(SETTINGS[0], classes=3, dim=4)
    features = head.weight.detach()[[0, 1]].clone().requires_grad_()
    head(features, torch.tensor([0, 1])).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
