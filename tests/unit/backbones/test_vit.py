import pytest
import torch

from mixbct.backbones.model import build_backbone
from mixbct.backbones.vit import HEADS, VisionTransformer, _Block
from mixbct.errors import ModelError
from mixbct.schemas.model import Preprocessing


@pytest.mark.parametrize(("size", "channels", "patch", "tokens"), [(32, 3, 8, 16), (27, 1, 9, 9)])
def test_images_become_vectors(size: int, channels: int, patch: int, tokens: int) -> None:
    torch.manual_seed(0)
    model = VisionTransformer(16, 5, size, channels, patch)
    assert model.positions.shape == (tokens, 16)
    image = torch.randn(3, channels, size, size, requires_grad=True)
    out = model(image)
    assert out.shape == (3, 5)
    (out * torch.randn(3, 5)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert image.grad is not None
    assert (image.grad != 0).all()


def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    block = _Block(32).double().eval()
    oracle = torch.nn.MultiheadAttention(32, HEADS, bias=True, batch_first=True).double().eval()
    with torch.no_grad():
        oracle.in_proj_weight.copy_(block.qkv.weight)
        oracle.in_proj_bias.zero_()
        oracle.out_proj.weight.copy_(block.project.weight)
        oracle.out_proj.bias.copy_(block.project.bias)
    x = torch.randn(2, 7, 32, dtype=torch.float64)
    normed = block.attention_norm(x)
    x1 = x + oracle(normed, normed, normed, need_weights=False)[0]
    torch.testing.assert_close(block(x), x1 + block.mlp(x1))


def test_the_order_of_patches_matters() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(16, 5, 16, 1).eval()
    image = torch.randn(1, 1, 16, 16)
    assert not torch.allclose(model(image), model(image.roll(8, -1)), atol=1e-4)


@pytest.mark.parametrize(("name", "width"), [("vit_t", 256), ("vit_s", 512), ("vit_b", 512)])
def test_the_named_sizes(name: str, width: int) -> None:
    with torch.device("meta"):
        model = build_backbone(name, 512, Preprocessing(size=112, channels=3), {})
    assert isinstance(model, VisionTransformer)
    assert model.positions.shape == (196, width)
    assert len(model.blocks) == (24 if name == "vit_b" else 12)


def test_a_size_that_is_not_whole_patches() -> None:
    with pytest.raises(ModelError, match=r"a multiple of model.options.patch, found 30"):
        VisionTransformer(16, 5, 30, 1)
    with pytest.raises(ModelError, match="patches of 0 pixels"):
        VisionTransformer(16, 5, 32, 1, patch=0)
