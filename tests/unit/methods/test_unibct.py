import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_task import CLASSES, DIM, PROGRESS, make_head, make_task

from mixbct.methods import Features, Progress
from mixbct.methods.unibct import UniBCT, refined_means
from mixbct.recipe import UniBCTSettings


def settings(**more: object) -> UniBCTSettings:
    return UniBCTSettings(name="unibct", bank="b", **more)  # type: ignore[arg-type]


def slow_mean(
    new: list[list[float]], old: list[list[float]], spread: float, temperature: float, graph: str
) -> list[float]:
    """The refinement as a power series, (I − λA)⁻¹ = Σ λᵏAᵏ, in plain loops."""
    count = len(new)
    if graph == "rows":
        new = [[x / math.hypot(*row) for x in row] for row in new]
    weights = [[0.0] * count for _ in range(count)]
    for i in range(count):
        for j in range(count):
            if i != j:
                dot = sum(a * b for a, b in zip(new[i], new[j], strict=True))
                weights[i][j] = math.exp(dot / temperature)
    edges = [[0.0] * count for _ in range(count)]
    for i in range(count):
        for j in range(count):
            others = range(count)
            total = sum(weights[i][k] if graph == "rows" else weights[k][j] for k in others)
            edges[i][j] = weights[i][j] / total
    term, moved = old, [[0.0] * len(old[0]) for _ in old]
    for _ in range(600):
        moved = [
            [m + t for m, t in zip(*pair, strict=True)] for pair in zip(moved, term, strict=True)
        ]
        term = [
            [
                spread * sum(edges[i][k] * term[k][d] for k in range(count))
                for d in range(len(old[0]))
            ]
            for i in range(count)
        ]
    return [(1 - spread) * sum(row[d] for row in moved) / count for d in range(len(old[0]))]


@pytest.mark.parametrize("graph", ["rows", "columns"])
def test_the_refined_mean_equals_a_loop(graph: str) -> None:
    torch.manual_seed(0)
    new = torch.randn(5, 4, dtype=torch.float64)
    old = torch.randn(5, 3, dtype=torch.float64)
    chosen = settings(temperature=0.7, graph=graph)
    other = torch.randn(2, 5, 4, dtype=torch.float64)
    every = torch.stack([other[0], new, other[1]]), torch.stack([old + 1, old, old - 1])
    found = refined_means(*every, chosen)[1]  # of classes that are solved together
    expected = slow_mean(new.tolist(), old.tolist(), 0.9, 0.7, graph)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    if graph == "rows":
        assert not np.allclose(found, old.mean(dim=0))


def test_an_old_feature_far_from_its_class_counts_less() -> None:
    """Three images agree; the old feature of the fourth, which they are unlike, is off."""
    new = torch.tensor([[1.0, 0.1], [1.0, 0.0], [1.0, -0.1], [-0.2, 1.0]], dtype=torch.float64)
    old = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]], dtype=torch.float64)
    (refined,) = refined_means(new[None], old[None], settings())
    assert refined[1] < 0.1 < old.mean(dim=0)[1]


def test_a_class_of_one_image_keeps_its_feature() -> None:
    old = torch.tensor([[0.6, 0.8]])
    torch.testing.assert_close(refined_means(torch.randn(1, 1, 5), old[None], settings()), old)


def test_prototypes_are_refined_at_the_epochs_chosen_alone() -> None:
    task = make_task()
    assert task.old is not None
    assert task.prototypes is not None
    method = UniBCT(settings(refresh=[2]), task)
    torch.manual_seed(4)
    features = torch.randn(len(task.labels), DIM)
    method.on_epoch(1, lambda rows: pytest.fail("not asked for"))
    torch.testing.assert_close(method.influence.directions, task.prototypes.values)
    method.on_epoch(2, lambda rows: features[rows])
    for label in range(CLASSES):
        rows = np.flatnonzero(task.labels == label)
        old = torch.from_numpy(task.old.read(rows)).double()
        (expected,) = refined_means(features[None, rows].double(), old[None], settings())
        torch.testing.assert_close(method.influence.directions[label], expected.float())
    assert set(method.state_dict()) == {"influence.directions"}
    # what was given is untouched
    assert not torch.allclose(method.influence.directions, task.prototypes.values)


def test_the_loss_is_bcts_under_the_prototypes_from_its_start_on() -> None:
    method, head = UniBCT(settings(start=3, weight=0.5), make_task()), make_head(scale=16.0)
    torch.manual_seed(2)
    new = Features(torch.randn(9, DIM), torch.arange(9) % CLASSES)
    assert set(method.losses(new, new, head, PROGRESS)) == {"classification"}
    losses = method.losses(new, new, head, Progress(3, 5, 0.6))
    cosines = F.normalize(new.values) @ F.normalize(method.influence.directions).t()
    expected = 0.5 * F.cross_entropy(16 * cosines, new.labels)
    torch.testing.assert_close(losses["influence"], expected)
