"""iresnet: the residual networks of face recognition, for images of 112 × 112 pixels.

An improved residual unit (batch normalisation before the first and after the last convolution, one
PReLU between them) in four stages that halve the image, with no pooling before the first, so that
112 pixels leave a 7 × 7 map; a linear map of all of it, and a batch normalisation of the embedding
whose weight stays 1. Source: Deng et al., "ArcFace", CVPR 2019, sec. 3.1 (the unit is Han et al.,
"Deep Pyramidal Residual Networks", CVPR 2017). Parameters are named as in insightface's
arcface_torch, so its `backbone.pth` files load (`mixbct import-model`).
"""

from jaxtyping import Float
from torch import Tensor, nn

from mixbct.backbones.small import halved_four_times

Stages = tuple[int, int, int, int]
WIDTHS: Stages = (64, 128, 256, 512)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride > 1:  # every stage begins with a stride, so no other block changes the shape
            narrow = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(narrow, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        short = x if self.downsample is None else self.downsample(x)
        total: Tensor = self.bn3(self.conv2(out)) + short
        return total


class IResNet(nn.Module):
    """Map [B, C, size, size] to [B, dim].

    Args:
        blocks: of the four stages: (2, 2, 2, 2) is iresnet18, (3, 4, 6, 3) 34, (3, 4, 14, 3) 50,
            (3, 13, 30, 3) 100, (6, 26, 60, 6) 200.
        dim: of the embedding.
        size: height and width of the input, a multiple of 16; published weights are for 112.
        channels: 1 or 3; published weights are for 3, in the order RGB.
        dropout: share of the last map that is dropped in training, in [0, 1].
    """

    def __init__(
        self, blocks: Stages, dim: int, size: int, channels: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        left = halved_four_times("iresnet", size)
        inputs = (WIDTHS[0], *WIDTHS)
        self.conv1 = nn.Conv2d(channels, inputs[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs[0])
        self.prelu = nn.PReLU(inputs[0])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(
                _Block(inputs[stage], width, stride=2),
                *[_Block(width, width, stride=1) for _ in range(blocks[stage] - 1)],
            )
            for stage, width in enumerate(WIDTHS)
        )
        self.bn2 = nn.BatchNorm2d(WIDTHS[-1])
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(WIDTHS[-1] * left**2, dim)
        self.features = nn.BatchNorm1d(dim)
        self.features.weight.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return the raw embeddings."""
        x = self.prelu(self.bn1(self.conv1(images)))
        x = self.bn2(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        out: Tensor = self.features(self.fc(self.dropout(x.flatten(1))))
        return out
