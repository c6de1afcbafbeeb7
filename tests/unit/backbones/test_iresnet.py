"""The names and shapes are those of arcface_torch: listed once from its code in the .txt files."""

from pathlib import Path

import pytest
import torch

from mixbct.backbones.iresnet import IResNet
from mixbct.backbones.model import build_backbone
from mixbct.backbones.onnx import ONNX
from mixbct.errors import ModelError
from mixbct.schemas.model import Preprocessing

FACE = Preprocessing(size=112, channels=3)


def published(depth: int) -> dict[str, tuple[int, ...]]:
    """Return name → shape of arcface_torch's iresnet with 512 dimensions."""
    lines = (Path(__file__).parent / f"iresnet{depth}.txt").read_text().splitlines()
    return {words[0]: tuple(map(int, words[1:])) for words in map(str.split, lines)}


@pytest.mark.parametrize(("depth", "tensors"), [(18, 187), (50, 475)])
def test_parameters_are_named_as_in_arcface_torch(depth: int, tensors: int) -> None:
    with torch.device("meta"):
        state = build_backbone(f"iresnet{depth}", 512, FACE, {}).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published(depth)
    assert len(state) == tensors
    assert {"conv1.weight", "layer1.0.bn1.weight", "features.running_var"} <= set(state)


@pytest.mark.parametrize(
    ("depth", "count"),
    [(18, 24_025_600), (34, 34_139_328), (50, 43_590_848), (100, 65_156_160)],
)
def test_parameter_counts(depth: int, count: int) -> None:
    with torch.device("meta"):
        model = build_backbone(f"iresnet{depth}", 512, FACE, {})
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize(
    ("size", "channels", "dim", "scale"), [(32, 1, 5, 4), (16, 3, 7, 1), (48, 3, 8, 9)]
)
def test_images_become_vectors(size: int, channels: int, dim: int, scale: int) -> None:
    torch.manual_seed(0)
    model = IResNet((1, 1, 1, 1), dim, size, channels)
    assert model.fc.in_features == 512 * scale
    out = model(torch.randn(3, channels, size, size))
    assert out.shape == (3, dim)
    out.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == ["features.weight"]
    assert (model.features.weight == 1).all()


def test_dropout_is_of_the_last_map_and_only_in_training() -> None:
    torch.manual_seed(0)
    model = IResNet((1, 1, 1, 1), 4, 16, 1, dropout=1.0)
    images = torch.randn(2, 1, 16, 16)
    model.features = torch.nn.Identity()  # type: ignore[assignment]
    assert torch.equal(model(images), model.fc.bias.expand(2, 4))
    assert not torch.equal(model.eval()(images), model.fc.bias.expand(2, 4))


@pytest.mark.parametrize("size", [8, 100])
def test_a_size_that_cannot_be_halved_four_times(size: int) -> None:
    with pytest.raises(ModelError, match=f"model.size must be a multiple of 16, found {size}"):
        build_backbone("iresnet18", 8, Preprocessing(size=size, channels=3), {})


def test_a_frozen_encoder_cannot_be_built_for_training() -> None:
    with pytest.raises(ModelError, match="there is no backbone 'onnx'"):
        build_backbone(ONNX, 8, FACE, {})
