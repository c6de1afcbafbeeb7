"""Margins of the softmax loss, as pure functions of the target's cosine.

A margin maps the cosine of a row and its own class to the value that takes its place before
scaling; all other cosines stay as they are. Gradients run through the margin.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

# 1 − cos² is held at or above this, which bounds the derivative of the sine by 1/√(it): exact
# for angles down to 0.06 degrees, and finite where the plain form gives infinity times zero.
SINE_FLOOR = 1e-6


def arcface(cosine: Float[Tensor, " n"], margin: float) -> Float[Tensor, " n"]:
    """Return cos(θ + m), the additive angular margin in its *clamped-sine* form.

    cos θ·cos m − sin θ·sin m with sin θ = √max(1 − cos²θ, 10⁻⁶). Where θ + m would exceed π the
    value is cos θ − m·sin m, which keeps it falling with θ.

    Args:
        cosine: in [−1, 1], of each row and its class.
        margin: m in radians, in [0, π/2).

    Source: Deng et al., "ArcFace", CVPR 2019, eq. 3; the branch is from its published code.
    """
    sine = (1 - cosine * cosine).clamp_min(SINE_FLOOR).sqrt()
    inside = cosine * math.cos(margin) - sine * math.sin(margin)
    beyond = cosine - margin * math.sin(margin)
    return torch.where(cosine > -math.cos(margin), inside, beyond)


def cosface(cosine: Float[Tensor, " n"], margin: float) -> Float[Tensor, " n"]:
    """Return cos θ − m, the additive cosine margin.

    Source: Wang et al., "CosFace", CVPR 2018, eq. 4.
    """
    return cosine - margin


def unmoved(cosine: Float[Tensor, " n"], margin: float) -> Float[Tensor, " n"]:
    """Return cos θ: no margin, whatever `margin` says."""
    return cosine
