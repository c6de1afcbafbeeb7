"""MobileFaceNet: a face network of a million parameters, for phones and for large trials.

Inverted residual units (widened by a 1 × 1 convolution, one convolution a channel, narrowed again
without an activation) with PReLU; the last map is weighed place by place, one convolution a
channel over all of it, where others average it. Source: Chen et al., "MobileFaceNets", CCBR 2018,
table 1. Weights of other implementations do not fit: they name and widen their layers otherwise.
"""

from jaxtyping import Float
from torch import Tensor, nn

from mixbct.backbones.small import halved_four_times

STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
"""Of each run of units: how far they widen, channels, how many, and the stride of the first."""


def _layer(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    linear: bool = False,
) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    activation = () if linear else (nn.PReLU(outputs),)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), *activation)


class _Unit(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, widening: int) -> None:
        super().__init__()
        wide = widening * inputs
        self.layers = nn.Sequential(
            _layer(inputs, wide),
            _layer(wide, wide, 3, stride, 1, wide),
            _layer(wide, outputs, linear=True),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


class MobileFaceNet(nn.Module):
    """Map [B, C, size, size] to [B, dim].

    Args:
        dim: of the embedding; 128 in the paper.
        size: height and width of the input, a multiple of 16; 112 in the paper.
        channels: 1 or 3.
    """

    def __init__(self, dim: int, size: int, channels: int) -> None:
        super().__init__()
        left = halved_four_times("mobilefacenet", size)
        units: list[nn.Module] = []
        inputs = 64
        for widening, outputs, count, stride in STAGES:
            for step in (stride, *[1] * (count - 1)):
                units.append(_Unit(inputs, outputs, step, widening))
                inputs = outputs
        self.stem = nn.Sequential(_layer(channels, 64, 3, 2, 1), _layer(64, 64, 3, 1, 1, 64))
        self.units = nn.Sequential(*units)
        weighed = _layer(inputs, 512), _layer(512, 512, left, groups=512, linear=True)
        self.places = nn.Sequential(*weighed)
        self.embedding = _layer(512, dim, linear=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return the raw embeddings."""
        out: Tensor = self.embedding(self.places(self.units(self.stem(images)))).flatten(1)
        return out
