"""An old face encoder as a foreign backbone: dlib's residual network, as face-api.js runs it.

mixbct knows nothing of it but the factory `examples.face_encoders.dlib_resnet:encoder`. Its weights
come from `model/` of the npm package @vladmandic/face-api; this turns them into safetensors, which
`mixbct import-model` takes:

    python -m examples.face_encoders.dlib_resnet MANIFEST.json OUT.safetensors

The network (King, dlib `dnn_face_recognition_ex.cpp`, 2017, after He et al., arXiv 1512.03385):
convolutions, each followed by a scale and a shift of every channel, in blocks of two with a
shortcut. Where a block halves the image the shortcut is the mean of 2 × 2, with zeros for channels
that are new, and the branch, which may come out a row and a column short, is filled up with zeros.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from examples.face_encoders.tfjs_weights import read_weights
from mixbct.errors import MixbctError, ModelError

DIM, CHANNELS, SIZE = 128, 3, 150
MEAN = (122.782, 117.001, 104.298)
"""Red, green and blue of the mean training pixel."""

BLOCKS = {
    "conv32_1": (32, 32, False),
    "conv32_2": (32, 32, False),
    "conv32_3": (32, 32, False),
    "conv64_down": (32, 64, True),
    "conv64_1": (64, 64, False),
    "conv64_2": (64, 64, False),
    "conv64_3": (64, 64, False),
    "conv128_down": (64, 128, True),
    "conv128_1": (128, 128, False),
    "conv128_2": (128, 128, False),
    "conv256_down": (128, 256, True),
    "conv256_1": (256, 256, False),
    "conv256_2": (256, 256, False),
    "conv256_down_out": (256, 256, True),
}
"""Channels in and out, and whether a block halves the image, in order and by the file's names."""

# of a face aligned to the usual five points, the square in which the eyes and the mouth stand where
# this network learnt them: their mean at (0.5, 0.43), eye to mouth 0.45 of its side
CROP_CENTRE = (0.4999, 0.6434)
"""Of the square that the network sees, as shares of the aligned image's width and height."""
CROP_SIDE = 0.8797


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, down: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, 2 if down else 1, 0 if down else 1)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.down = down
        self.added = outside - inside

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d k l"]:
        branch = self.conv2(F.relu(self.conv1(x)))
        if self.down:
            x = F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, 0, self.added))
            short = [x.shape[side] - branch.shape[side] for side in (2, 3)]
            branch = F.pad(branch, (0, short[1], 0, short[0]))
        return F.relu(x + branch)


class DlibResNet(nn.Module):
    """Map aligned faces, values in [0, 1], to 128 dimensions."""

    mean: Tensor
    grid: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv32_down = nn.Conv2d(CHANNELS, 32, 7, 2)
        self.blocks = nn.ModuleDict({name: _Block(*shape) for name, shape in BLOCKS.items()})
        self.fc = nn.Linear(256, DIM, bias=False)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) / 255, persistent=False)
        # from −1 to 1 over the image, as grid_sample counts
        shift = [2 * centre - 1 for centre in CROP_CENTRE]
        theta = torch.tensor([[[CROP_SIDE, 0, shift[0]], [0, CROP_SIDE, shift[1]]]])
        grid = F.affine_grid(theta, [1, CHANNELS, SIZE, SIZE], align_corners=False)
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 128"]:
        """Cut out what the network learnt from, and embed it; black stands outside the image."""
        grid = self.grid.expand(len(images), -1, -1, -1)
        x = F.grid_sample(images, grid, align_corners=False) - self.mean
        x = F.max_pool2d(F.relu(self.conv32_down(x)), 3, 2)
        for block in self.blocks.values():
            x = block(x)
        return self.fc(x.mean(dim=(2, 3)))


def encoder(*, dim: int, size: int, channels: int) -> DlibResNet:
    """Return the network with random weights, for faces aligned to any square of `size` pixels.

    Raises:
        ValueError: it has another dimension, or other channels, than are asked for.
    """
    if (dim, channels) != (DIM, CHANNELS):
        raise ValueError(f"this encoder has dim {DIM} and {CHANNELS} channels")
    return DlibResNet()


def state_from(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Return the state dict of `DlibResNet`, scales and shifts folded into the convolutions.

    With a filter w, a bias b, a scale s and a shift t of each channel, s (w ∗ x + b) + t is the
    convolution with s w and the bias s b + t.

    Raises:
        ModelError: an array is missing.
    """
    state: dict[str, Tensor] = {}
    names = {"conv32_down": "conv32_down"}
    names |= {f"{b}/{c}": f"blocks.{b}.{c}" for b in BLOCKS for c in ("conv1", "conv2")}
    try:
        for theirs, ours in names.items():
            scale = arrays[f"{theirs}/scale/weights"]
            # height, width, in, out → out, in, height, width
            filters = (arrays[f"{theirs}/conv/filters"] * scale).transpose(3, 2, 0, 1)
            bias = arrays[f"{theirs}/conv/bias"] * scale + arrays[f"{theirs}/scale/biases"]
            state[f"{ours}.weight"] = torch.from_numpy(filters.copy())
            state[f"{ours}.bias"] = torch.from_numpy(bias)
        state["fc.weight"] = torch.from_numpy(arrays["fc"].T.copy())
    except KeyError as error:
        raise ModelError(f"these are not the network's weights: there is no {error}") from error
    return state


def main() -> None:
    """Write a manifest's weights as safetensors."""
    try:
        manifest, out = map(Path, sys.argv[1:])
    except ValueError:
        sys.exit(
            "usage: python -m examples.face_encoders.dlib_resnet MANIFEST.json OUT.safetensors"
        )
    try:
        save_file(state_from(read_weights(manifest)), out)
    except MixbctError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
