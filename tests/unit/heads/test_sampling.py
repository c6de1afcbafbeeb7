"""Class sampling, and margin softmax in as many parts as it takes."""

import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from mixbct.heads.classifier import CosineHead, sample_classes
from mixbct.recipe import ArcFaceSettings

CLASSES, DIM, ROWS = 40, 6, 9


def arcface(scale: float) -> ArcFaceSettings:
    return ArcFaceSettings(name="arcface", scale=scale, margin=0.4)


def make_head() -> CosineHead:
    torch.manual_seed(0)
    return CosineHead(CLASSES, DIM, arcface(8.0)).double()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    features = torch.randn(ROWS, DIM, dtype=torch.float64, requires_grad=True)
    return features, torch.tensor([3, 39, 3, 0, 17, 17, 5, 21, 39])


def drawn(sample: float, seed: int) -> torch.Tensor:
    return sample_classes(batch()[1], CLASSES, sample, torch.Generator().manual_seed(seed))


def plain_losses(
    head: CosineHead, features: torch.Tensor, labels: torch.Tensor, among: list[int]
) -> torch.Tensor:
    """Return the losses row by row over the classes `among`, from the formula."""
    losses = []
    for feature, label in zip(features, labels.tolist(), strict=True):
        cosines = [F.cosine_similarity(feature, head.weight[c], dim=0) for c in among]
        place = among.index(label)
        angle = torch.acos(cosines[place])
        assert angle + head.settings.margin < math.pi
        cosines[place] = torch.cos(angle + head.settings.margin)
        losses.append(
            F.cross_entropy(head.settings.scale * torch.stack(cosines), torch.tensor(place))
        )
    return torch.stack(losses)


@pytest.mark.parametrize("sample", [1.0, 0.5, 0.1])
def test_losses_and_gradients_are_those_of_a_slow_loop_over_the_sample(sample: float) -> None:
    head, (features, labels) = make_head(), batch()
    chosen = drawn(sample, 7)
    if sample < 1:
        head.choose(chosen)
    among = chosen.tolist()
    weights = torch.linspace(0.5, 2, ROWS, dtype=torch.float64)
    ours = head(features, labels)
    found = torch.autograd.grad((ours * weights).sum(), [features, head.present])
    slow = plain_losses(head, features, labels, among)
    expected = torch.autograd.grad((slow * weights).sum(), [features, head.weight])
    torch.testing.assert_close(ours, slow, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, (expected[0], expected[1][among]), rtol=1e-8, atol=1e-9)


def test_the_sample_has_the_labels_classes_and_as_many_others_as_asked_for() -> None:
    _, labels = batch()
    own = set(labels.tolist())
    seen: set[int] = set()
    for seed in range(60):
        chosen = drawn(0.3, seed).tolist()
        assert chosen == sorted(set(chosen))
        assert own < set(chosen)
        assert len(chosen) == 12
        seen |= set(chosen)
    assert seen == set(range(CLASSES))
    # as many as there are rows, however small the share, so that nobody has to count
    assert len(drawn(0.05, 0)) == ROWS
    assert own < set(drawn(0.05, 0).tolist())


def test_a_sample_is_a_function_of_its_generator() -> None:
    assert torch.equal(drawn(0.5, 4), drawn(0.5, 4))
    assert not torch.equal(drawn(0.5, 4), drawn(0.5, 5))


@pytest.mark.parametrize("cached", [1, 100, 10_000])
def test_the_size_of_the_parts_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, cached: int
) -> None:
    features, labels = batch()
    expected = torch.autograd.grad(make_head()(features, labels).sum(), features)
    monkeypatch.setattr("mixbct.heads.margin_softmax.CACHED", cached)
    head = make_head()
    loss = head(features, labels).sum()
    assert torch.equal(torch.autograd.grad(loss, features, retain_graph=True)[0], expected[0])
    # a second walk over the same graph finds it as the first did
    assert torch.equal(torch.autograd.grad(loss, features)[0], expected[0])


def test_scales_at_which_a_bare_exponential_overflows() -> None:
    torch.manual_seed(0)
    head = CosineHead(CLASSES, DIM, arcface(512.0))
    features, labels = batch()
    values = features.detach().float().requires_grad_()
    losses = head(values, labels)
    (gradient,) = torch.autograd.grad(losses.sum(), values)
    assert torch.isfinite(losses).all()
    assert torch.isfinite(gradient).all()
    slow = plain_losses(head, values, labels, list(range(CLASSES)))
    torch.testing.assert_close(losses, slow, rtol=1e-4, atol=1e-2)


def stepped(head: CosineHead, seed: int) -> tuple[int, ...]:
    """Take a step on a sample, and return where its large arrays lie."""
    features, labels = batch()
    head.choose(drawn(0.5, seed))
    loss = head(features, labels).sum()
    logits = loss.grad_fn.next_functions[0][0].saved_tensors[3].data_ptr()
    loss.backward()
    places = (head.present.data_ptr(), head.present.grad.data_ptr(), logits)
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    with head.updated_by(optimizer):
        optimizer.step()
    return places


def test_a_step_finds_the_memory_of_the_one_before() -> None:
    head, others, places = make_head(), [], []
    for seed in range(3):
        places.append(stepped(head, seed))
        # who asks for memory of those sizes meanwhile gets other memory
        for shape in ((20, DIM), (ROWS, 20)):
            others += [torch.empty(shape, dtype=torch.float64) for _ in range(20)]
    assert len(set(places)) == 1
    assert not {each.data_ptr() for each in others} & set(places[0])


def test_losses_of_one_step_have_memory_of_their_own() -> None:
    features, labels = batch()
    found = []
    for together in (False, True):
        head = make_head()
        stepped(head, 1)
        head.choose(drawn(0.5, 0))
        wanted = [features, head.present]

        def first(head: CosineHead = head) -> torch.Tensor:
            return head(features, labels).square().sum()

        def second(head: CosineHead = head) -> torch.Tensor:
            return head(features.flip(0), labels.flip(0)).sum()

        if together:
            found.append(torch.autograd.grad(first() + second(), wanted))
        else:
            apart = [torch.autograd.grad(each(), wanted) for each in (first, second)]
            found.append(tuple(a + b for a, b in zip(*apart, strict=True)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


def test_gradients_add_up_over_backward_passes() -> None:
    features, labels = batch()
    head = make_head()
    stepped(head, 1)
    head.choose(drawn(0.5, 0))
    rows = head.present
    (once,) = torch.autograd.grad(head(features, labels).sum(), rows)
    once = once.clone()
    for passes in (1, 2, 3):
        loss = head(features, labels).sum()
        loss.backward(retain_graph=passes == 2)
        if passes == 2:
            loss.backward()
    torch.testing.assert_close(rows.grad, 4 * once)


def test_a_graph_that_is_kept_beyond_its_step_is_not_walked_on_other_numbers() -> None:
    features, labels = batch()
    head = make_head()
    head.choose(drawn(0.5, 0))
    loss = head(features, labels).sum()
    loss.backward(retain_graph=True)
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    with head.updated_by(optimizer):
        optimizer.step()
    stepped(head, 1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_head_takes_memory_of_its_present_type_and_a_copy_none() -> None:
    head = make_head()
    stepped(head, 0)
    size = len(pickle.dumps(head))
    assert size < len(pickle.dumps(make_head())) + 200
    head.float()
    features, labels = batch()
    head.choose(drawn(0.5, 1))
    assert head(features.float(), labels).dtype == torch.float32
    assert head.present.dtype == torch.float32
