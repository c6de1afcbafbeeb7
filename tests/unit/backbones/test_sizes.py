"""The table of backbones in the docs is what is built: its parameters and operations, counted."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mixbct.backbones.model import BACKBONES, build_backbone
from mixbct.errors import ModelError
from mixbct.schemas.model import Preprocessing

FACE = Preprocessing(size=112, channels=3)
PAGE = Path(__file__).parents[3] / "docs" / "backbones.md"
ROW = re.compile(r"^\| `(\w+)` \| ([\d,]+) \| ([\d.]+) \|", re.MULTILINE)
TABLE = {name: (int(n.replace(",", "")), flop) for name, n, flop in ROW.findall(PAGE.read_text())}


def counted(name: str, dim: int = 512) -> tuple[int, float]:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as flops:
        model = build_backbone(name, dim, FACE, {}).eval()
        model(torch.empty(1, 3, 112, 112))
    return sum(p.numel() for p in model.parameters()), flops.get_total_flops() / 1e9


@pytest.mark.parametrize("name", BACKBONES)
def test_the_docs_say_how_large_it_is(name: str) -> None:
    parameters, operations = counted(name)
    assert TABLE[name] == (parameters, f"{operations:.2f}")


def test_mobilefacenet_is_as_large_as_the_papers() -> None:
    """0.99 million parameters and 221 million multiplications with additions (table 1)."""
    parameters, operations = counted("mobilefacenet", 128)
    assert parameters == pytest.approx(0.99e6, rel=0.02)
    assert operations / 2 == pytest.approx(0.221, rel=0.005)


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (48, 3)])
def test_mobilefacenet_maps_images_of_other_sizes(size: int, channels: int) -> None:
    torch.manual_seed(0)
    model = build_backbone("mobilefacenet", 5, Preprocessing(size=size, channels=channels), {})
    out = model(torch.randn(3, channels, size, size))
    assert out.shape == (3, 5)
    out.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ModelError, match="a multiple of 16, found 20"):
        build_backbone("mobilefacenet", 5, Preprocessing(size=20, channels=3), {})


def test_iresnet200_has_the_published_blocks() -> None:
    with torch.device("meta"):
        names = build_backbone("iresnet200", 512, FACE, {}).state_dict()
    for stage, blocks in enumerate((6, 26, 60, 6), 1):
        assert f"layer{stage}.{blocks - 1}.conv2.weight" in names
        assert f"layer{stage}.{blocks}.conv2.weight" not in names
