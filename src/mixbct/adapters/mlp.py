"""A residual network from one space into another, begun at the Procrustes map: the bench's rival.

    f(x) = x R + relu(x A + a) B + b

R is the orthogonal Procrustes map, which stays as it is and fits equal and different dimensions;
B and b begin at zero, so that training starts from R and moves away only where the pairs call
for it. The loss is 1 − cos(f(x), y); AdamW, its rate falling along a half cosine.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor

from mixbct.adapters import procrustes
from mixbct.adapters.moments import Pairs
from mixbct.data.bank import normalise
from mixbct.distributed import default_dtype, torch_rng

BATCH = 256
STEPS = 1000
RATE = 2e-3
WEIGHT_DECAY = 0.05


Map = Callable[[Float32[np.ndarray, "n d1"]], Float32[np.ndarray, "n d2"]]


def fit(pairs: Pairs, steps: int = STEPS, seed: int = 0) -> Map:
    """Return what maps vectors [n, d1] to normalised ones [n, d2] in the other space.

    The hidden layer has twice the larger dimension. The same seed gives the same map on the
    same machine.

    Args:
        pairs: the same items' vectors by both models, normalised.
        steps: of AdamW, each on 256 rows.
        seed: of the first weights and of the batches.

    Raises:
        FeatureError: the counts differ, or there are too few rows for a Procrustes map.
    """
    rng = torch_rng(seed)
    # as float64: a thousand steps make much of a float32's rounding
    rotation = torch.tensor(procrustes.fit(pairs)[0].arrays[0]).double()
    (d1, d2), hidden = rotation.shape, 2 * max(rotation.shape)
    with default_dtype(torch.float64):
        inner = torch.randn(d1, hidden, generator=rng) / math.sqrt(d1)
        weights = [inner, torch.zeros(hidden), torch.zeros(hidden, d2), torch.zeros(d2)]
    for weight in weights:
        weight.requires_grad_()
    optimizer = torch.optim.AdamW(weights, RATE, weight_decay=WEIGHT_DECAY)
    x, y = (torch.tensor(side[:]) for side in (pairs.source, pairs.target))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
        rows = torch.randint(len(x), (min(BATCH, len(x)),), generator=rng)
        mapped = _forward(x[rows].double(), rotation, *weights)
        loss = (1 - F.cosine_similarity(mapped, y[rows].double())).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    fitted = [tensor.detach().float() for tensor in (rotation, *weights)]
    # a copy, since torch may not see memory that is read-only
    return lambda features: normalise(_forward(torch.tensor(features), *fitted).numpy())


def _forward(
    x: Tensor, rotation: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, bias: Tensor
) -> Tensor:
    return x @ rotation + F.relu(x @ inner + inner_bias) @ outer + bias
