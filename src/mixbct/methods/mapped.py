"""Any method with new features of another dimension than the old ones: behind a query map.

    L = L_method(Q f, o; W_old) + (w/B) Σ ℓ(f_i, y_i; W)

The method works in the old space, on mapped new features and under class weights of the old
dimension. The full feature f has a classification loss of its own, so that what the old space
cannot hold is learned all the same. f serves the self-test, Q f the cross-test.

Two maps:

    prefix       the first D_old coordinates of f: nothing is learned, D_new ≥ D_old
    projection   a linear map, trained along; it begins with orthonormal rows or columns
"""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixbct.errors import RecipeError
from mixbct.heads.classifier import Head
from mixbct.methods.independent import classification
from mixbct.methods.method import Extract, Features, Losses, Method, Progress, StepPlan, given
from mixbct.recipe import CompatibleSettings

Map = Literal["prefix", "projection"]


def first_map(kind: Map, new: int, old: int) -> Float[Tensor, "new old"]:
    """Return the map that training begins with; it has orthonormal rows or columns.

    Args:
        kind: which.
        new: dimension of the new features.
        old: dimension of the old ones.

    Raises:
        RecipeError: a prefix longer than the new features.
    """
    if kind == "projection":
        return nn.init.orthogonal_(torch.empty(new, old))
    if new < old:
        raise RecipeError(
            f"new features of {new} dimensions have no {old} first coordinates to compare with old "
            "features: set method.query_map = 'projection'"
        )
    return torch.eye(new, old)


class Mapped(Method):
    """A method whose new features reach the old space through a map.

    Args:
        method: works in the old space; its settings name the map, and w.
        head: classifies mapped and old features; trained along.
        dim: of the new features.

    Raises:
        RecipeError: see `first_map`.
    """

    settings: CompatibleSettings

    def __init__(self, method: Method, head: Head, dim: int) -> None:
        super().__init__(method.settings, method.task)
        self.method, self.head = method, head
        kind: Map = given(self.settings.query_map)
        matrix = first_map(kind, dim, head.weight.shape[1])
        self.matrix = nn.Parameter(matrix) if kind == "projection" else nn.Buffer(matrix)

    def plan(self, seed: int, epoch: int, step: int) -> StepPlan:
        """Return the step of the method."""
        return self.method.plan(seed, epoch, step)

    def losses(self, new: Features, old: Features, head: Head, progress: Progress) -> Losses:
        """Return the method's losses in the old space, and the loss of the full features."""
        mapped = replace(new, values=new.values @ self.matrix)
        losses = self.method.losses(mapped, old, self.head, progress)
        return {**losses, "full": self.settings.full_weight * classification(new, head)}

    def on_epoch(self, epoch: int, extract: Extract) -> None:
        """Let the method look at the whole set, in the old space."""
        self.method.on_epoch(epoch, lambda rows: extract(rows) @ self.query_map())

    def query_map(self) -> Float[Tensor, "d e"]:
        """Return a copy of the present map, in main memory."""
        return self.matrix.detach().cpu().clone()

    def gallery_map(self) -> Float[Tensor, "d d"] | None:
        """Return that of the method."""
        return self.method.gallery_map()
