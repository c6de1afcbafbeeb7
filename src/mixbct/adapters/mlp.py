"""A residual network from one space into another, begun at the Procrustes map.

    f(x) = x R + relu(x A + a) B + b

R is the orthogonal Procrustes map, which stays as it is and fits equal and different dimensions;
B and b begin at zero, so that training starts from R and moves away only where the pairs call
for it. The loss is 1 − cos(f(x), y); AdamW, its rate falling along a half cosine.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor

from mixbct.adapters.adapter import (
    check_dimension,
    check_pairs,
    read_tensors,
    write_tensors,
)
from mixbct.adapters.procrustes import Procrustes
from mixbct.data.bank import normalise
from mixbct.distributed import default_dtype, torch_rng

BATCH = 256
STEPS = 1000
RATE = 2e-3
WEIGHT_DECAY = 0.05


class ResidualMLP:
    """A fitted map from one embedding space into another.

    Args:
        rotation: R, [d1, d2].
        inner: A, [d1, h].
        inner_bias: a, [h].
        outer: B, [h, d2].
        outer_bias: b, [d2].
    """

    def __init__(
        self,
        rotation: Float32[np.ndarray, "d1 d2"],
        inner: Float32[np.ndarray, "d1 h"],
        inner_bias: Float32[np.ndarray, " h"],
        outer: Float32[np.ndarray, "h d2"],
        outer_bias: Float32[np.ndarray, " d2"],
    ) -> None:
        self.rotation = rotation
        self.inner = inner
        self.inner_bias = inner_bias
        self.outer = outer
        self.outer_bias = outer_bias

    @property
    def dims(self) -> tuple[int, int]:
        """Return the dimensions that it takes and that it gives."""
        return len(self.rotation), len(self.outer_bias)

    @classmethod
    def fit(
        cls,
        source: Float32[np.ndarray, "n d1"],
        target: Float32[np.ndarray, "m d2"],
        steps: int = STEPS,
        seed: int = 0,
    ) -> "ResidualMLP":
        """Fit the map on the same items embedded by both models; see `Adapter.fit`.

        The hidden layer has twice the larger dimension. The same seed gives the same map on the
        same machine.

        Args:
            source: n normalised rows.
            target: the same items, in the same order, normalised.
            steps: of AdamW, each on 256 rows.
            seed: of the first weights and of the batches.

        Raises:
            FeatureError: the counts differ, or there are too few rows for a Procrustes map.
        """
        check_pairs(source, target, needed=min(source.shape[1], target.shape[1]))
        rng = torch_rng(seed)
        # as float64: a thousand steps make much of a float32's rounding
        rotation = torch.from_numpy(Procrustes.fit(source, target).rotation).double()
        (d1, d2), hidden = rotation.shape, 2 * max(rotation.shape)
        with default_dtype(torch.float64):
            inner = torch.randn(d1, hidden, generator=rng) / math.sqrt(d1)
            weights = [inner, torch.zeros(hidden), torch.zeros(hidden, d2), torch.zeros(d2)]
        for weight in weights:
            weight.requires_grad_()
        optimizer = torch.optim.AdamW(weights, RATE, weight_decay=WEIGHT_DECAY)
        x, y = torch.from_numpy(source), torch.from_numpy(target)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
            rows = torch.randint(len(x), (min(BATCH, len(x)),), generator=rng)
            mapped = _forward(x[rows].double(), rotation, *weights)
            loss = (1 - F.cosine_similarity(mapped, y[rows].double())).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return cls(*(tensor.detach().float().numpy() for tensor in (rotation, *weights)))

    def transform(self, features: Float32[np.ndarray, "n d1"]) -> Float32[np.ndarray, "n d2"]:
        """Return the rows in the target's space, normalised; see `Adapter.transform`."""
        check_dimension(features, len(self.rotation))
        weights = (self.rotation, self.inner, self.inner_bias, self.outer, self.outer_bias)
        # a copy, since torch may not see memory that is read-only
        mapped = _forward(torch.tensor(features), *map(torch.from_numpy, weights))
        return normalise(mapped.numpy())

    def save(self, path: Path) -> None:
        """Write the map to one safetensors file."""
        write_tensors(path, {name: getattr(self, name) for name in _DIMENSIONS})

    @classmethod
    def load(cls, path: Path) -> "ResidualMLP":
        """Read a map that `save` wrote; see `Adapter.load`."""
        # a copy, since torch may not see memory that is read-only
        return cls(**{k: np.array(v) for k, v in read_tensors(path, _DIMENSIONS).items()})


_DIMENSIONS = {"rotation": 2, "inner": 2, "inner_bias": 1, "outer": 2, "outer_bias": 1}


def _forward(
    x: Tensor, rotation: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, bias: Tensor
) -> Tensor:
    return x @ rotation + F.relu(x @ inner + inner_bias) @ outer + bias
