import math

import pytest
import torch
import torch.nn.functional as F
from small_task import BATCH, CLASSES, DIM, PROGRESS, make_head, make_task

from mixbct.errors import RecipeError
from mixbct.methods import Features
from mixbct.methods.nccl import NCCL, contrastive_loss, posterior_entropy
from mixbct.recipe import NCCLSettings


def build(**more: object) -> NCCL:
    return NCCL(NCCLSettings(name="nccl", bank="b", **more), make_task())  # type: ignore[arg-type]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_the_entropy_equals_a_loop() -> None:
    torch.manual_seed(0)
    old = F.normalize(torch.randn(7, 4, dtype=torch.float64))
    means = 0.8 * F.normalize(torch.randn(5, 4, dtype=torch.float64))
    found = posterior_entropy(old, means, 0.3)
    for o, entropy in zip(old.tolist(), found.tolist(), strict=True):
        densities = []
        for m in means.tolist():
            square = sum((a - b) ** 2 for a, b in zip(o, m, strict=True))
            densities.append(math.exp(-square / 2 / 0.3))
        shares = [d / sum(densities) for d in densities]
        assert entropy == pytest.approx(-sum(p * math.log(p) for p in shares), rel=1e-9)


def test_features_between_classes_are_not_credible() -> None:
    method = build()
    clear = F.normalize(method.means)
    torch.testing.assert_close(posterior_entropy(clear, method.means, 1e-9), torch.zeros(CLASSES))
    assert method.credible(clear).all()
    method.variance = 1e9
    assert not method.credible(clear).any()


def test_the_losses_equal_a_loop_over_a_queue_that_wraps() -> None:
    """The queue of 30 takes 20 rows, and 20 more twice: the oldest are overwritten."""
    method, head = build(queue=30, temperature=0.5, weight=0.9, logit_weight=0.2), make_head()
    head = head.double()
    task = make_task()
    assert task.old is not None
    method.variance = 0.2  # makes some rows too uncertain
    torch.manual_seed(1)
    queue: list[tuple[list[float], int]] = []
    skipped = 0
    for step in range(3):
        plan = method.plan(0, 0, step)
        labels = torch.from_numpy(plan.forward_labels)
        old = torch.from_numpy(task.old.read(plan.old_rows)).double()
        new = torch.randn(BATCH, DIM, dtype=torch.float64)
        losses = method.losses(Features(new, labels), Features(old, labels), head, PROGRESS)
        entropies = posterior_entropy(old, method.means.double(), 0.2).tolist()
        limit = math.log(CLASSES) / 2
        credible = [i for i in range(BATCH) if entropies[i] <= limit]
        skipped += BATCH - len(credible)
        queue = (queue + [(old[i].tolist(), int(labels[i])) for i in credible])[-30:]
        weights = F.normalize(head.weight).tolist()
        expected = {"features": 0.0, "logits": 0.0}
        for i in credible:
            unit = F.normalize(new[i : i + 1])[0].tolist()
            logits = [dot(unit, w) for w in weights]
            alike = {
                "features": [dot(unit, q) / 0.5 for q, _ in queue],
                "logits": [dot(logits, [dot(q, w) for w in weights]) / 0.5 for q, _ in queue],
            }
            for name, values in alike.items():
                total = sum(math.exp(v) for v in values)
                terms = [
                    -(1 + dot(old[i].tolist(), q)) / 2 * math.log(math.exp(v) / total)
                    for v, (q, label) in zip(values, queue, strict=True)
                    if label == labels[i]
                ]
                expected[name] += sum(terms) / len(terms)
        assert losses["features"].item() == pytest.approx(0.9 * expected["features"] / 20, rel=1e-5)
        assert losses["logits"].item() == pytest.approx(0.2 * expected["logits"] / 20, rel=1e-5)
    assert 0 < skipped < 2 * BATCH
    assert len(queue) == 30


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    alikeness = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(4, 9, dtype=torch.float64)
    positive = torch.rand(4, 9) < 0.4
    positive[2] = False
    assert torch.autograd.gradcheck(lambda a: contrastive_loss(a, positive, weights), alikeness)
    assert contrastive_loss(alikeness, positive, weights)[2] == 0


def test_the_whole_losss_gradient_is_that_of_finite_differences() -> None:
    task, head = make_task(), make_head().double()
    assert task.old is not None
    plan = build().plan(0, 0, 0)
    labels = torch.from_numpy(plan.forward_labels)
    old = torch.from_numpy(task.old.read(plan.old_rows)).double()
    torch.manual_seed(1)

    def loss(values: torch.Tensor) -> torch.Tensor:
        losses = (
            build(queue=40)
            .double()
            .losses(Features(values, labels), Features(old, labels), head, PROGRESS)
        )
        return losses["features"] + 10 * losses["logits"]

    values = torch.randn(BATCH, DIM, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, values)


def test_no_credible_row_costs_nothing() -> None:
    method = build()
    method.variance = 1e9
    plan = method.plan(0, 0, 0)
    labels = torch.from_numpy(plan.forward_labels)
    values = torch.randn(BATCH, DIM, requires_grad=True)
    old = F.normalize(torch.randn(BATCH, DIM))
    losses = method.losses(Features(values, labels), Features(old, labels), make_head(), PROGRESS)
    assert losses["features"] == losses["logits"] == 0
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()


def test_who_joins_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every credible row, also one that none in training shares its class with; no other."""
    method, rows = build(), F.normalize(torch.randn(4, DIM))
    monkeypatch.setattr(NCCL, "credible", lambda *_: torch.tensor([True, True, False, True]))
    labels = torch.tensor([0, -1, 2, 3])
    new = torch.randn(4, DIM)
    method.losses(Features(new, labels.clamp_min(0)), Features(rows, labels), make_head(), PROGRESS)
    assert int(method.enqueued) == 3
    assert method.queue_labels[:3].tolist() == [0, -1, 3]
    torch.testing.assert_close(method.queue[:3], rows[[0, 1, 3]])


def test_a_queue_below_the_batch_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"method.queue = 19 cannot hold one batch of 20"):
        build(queue=19)
