import pytest
import torch

from mixbct.backbones.small import SmallResNet
from mixbct.errors import ModelError


@pytest.mark.parametrize(
    ("size", "channels", "dim", "width"), [(32, 3, 128, 8), (16, 1, 5, 2), (48, 1, 7, 3)]
)
def test_images_become_vectors(size: int, channels: int, dim: int, width: int) -> None:
    torch.manual_seed(0)
    model = SmallResNet(dim, size, channels, width)
    out = model(torch.randn(4, channels, size, size))
    assert out.shape == (4, dim)
    assert out.dtype == torch.float32
    out.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_every_pixel_counts() -> None:
    torch.manual_seed(0)
    model = SmallResNet(8, 32, 1, 4).eval()
    image = torch.randn(1, 1, 32, 32, requires_grad=True)
    model(image).square().sum().backward()
    assert image.grad is not None
    assert (image.grad != 0).all()


@pytest.mark.parametrize("size", [8, 30, 40])
def test_a_size_that_cannot_be_halved_four_times(size: int) -> None:
    with pytest.raises(ModelError, match=f"model.size must be a multiple of 16, found {size}"):
        SmallResNet(8, size, 1)


def test_the_activation_can_be_one_without_a_kink() -> None:
    model = SmallResNet(8, 32, 1, 4, "silu")
    kinds = {type(module).__name__ for module in model.modules()}
    assert "SiLU" in kinds
    assert "PReLU" not in kinds
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 8)
    with pytest.raises(ModelError, match="prelu and silu, not 'relu'"):
        SmallResNet(8, 32, 1, 4, "relu")
