"""A small residual network for images of about 32 × 32 pixels (He et al., CVPR 2016).

Four blocks, each halving the image: a strided 3 × 3 convolution beside a shortcut that averages
2 × 2 pixels before its 1 × 1 convolution, so that no pixel is thrown away (the "D" shortcut of
He et al., CVPR 2019). PReLU and a final batch normalisation of the embedding, as in face
recognition; or SiLU, which has no kink. At a kink the last bit of a number can turn a gradient, so
that two machines that train as float64 end with figures alike to five digits with SiLU, and with
PReLU only where none was met.
"""

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixbct.errors import ModelError

DOWNSCALE = 16


def halved_four_times(backbone: str, size: int) -> int:
    """Return what four halvings leave of the input's height and width.

    Raises:
        ModelError: they leave no whole number of pixels.
    """
    if size % DOWNSCALE:
        raise ModelError(
            f"backbone {backbone!r} halves its input four times: model.size must be a multiple of "
            f"{DOWNSCALE}, found {size}"
        )
    return size // DOWNSCALE


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, activation: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.shortcut_norm = nn.BatchNorm2d(outputs)
        self.activation = nn.PReLU(outputs) if activation == "prelu" else nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        short = self.shortcut_norm(self.shortcut(F.avg_pool2d(x, 2)))
        out: Tensor = self.activation(self.norm(self.conv(x)) + short)
        return out


class SmallResNet(nn.Module):
    """Map [B, C, size, size] to [B, dim].

    Args:
        dim: of the embedding.
        size: height and width of the input, a multiple of 16.
        channels: 1 or 3.
        width: channels of the first block; each block has twice as many as the one before.
        activation: "prelu" or "silu".
    """

    def __init__(
        self, dim: int, size: int, channels: int, width: int = 32, activation: str = "prelu"
    ) -> None:
        super().__init__()
        if activation not in ("prelu", "silu"):
            raise ModelError(
                f"backbone 'small' knows the activations prelu and silu, not {activation!r}"
            )
        if not width:  # torch takes it, and fails in the first step
            raise ValueError("width must be at least 1")
        widths = [channels, width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.Sequential(*[_Block(i, o, activation) for i, o in pairwise(widths)])
        pixels = halved_four_times("small", size) ** 2
        self.embedding = nn.Linear(widths[-1] * pixels, dim, bias=False)
        self.embedding_norm = nn.BatchNorm1d(dim)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return the raw embeddings."""
        out: Tensor = self.embedding_norm(self.embedding(self.blocks(images).flatten(1)))
        return out
