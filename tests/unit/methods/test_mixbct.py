import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mixbct.errors import BankError, RecipeError
from mixbct.heads.classifier import build_head
from mixbct.methods import Features, OldRows, Progress, Task
from mixbct.methods.mixbct import MixBCT
from mixbct.recipe import ArcFaceSettings, MixBCTSettings

LABELS = np.random.default_rng(1).integers(0, 5, 100)


def method(draw: str, ratio: float = 0.3, batch: int = 20, **old: object) -> MixBCT:
    rows = {
        "labels": LABELS,
        "credible": np.ones(100, dtype=bool),
        "paired": True,
        "read": lambda rows: np.empty((len(rows), 6), dtype=np.float32),
    } | old
    settings = MixBCTSettings(name="mixbct", bank="b", draw=draw, ratio=ratio)  # type: ignore[arg-type]
    return MixBCT(settings, Task(LABELS, batch, OldRows(**rows)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("draw", "ratio", "batch", "expected"),
    [
        ("replace", 0.3, 20, 6),
        ("skip", 0.29, 100, 29),  # 0.29·100 is 28.999999999999996 in floating point
        ("bank", 0.5, 20, 20),
        ("bank", 0.7, 30, 70),  # 0.7·30/0.3 is 69.99999999999999
        ("bank", 0.0, 20, 0),
    ],
)
def test_the_number_of_old_rows_is_exact(
    draw: str, ratio: float, batch: int, expected: int
) -> None:
    plan = method(draw, ratio, batch).plan(0, 0, 0)
    assert len(plan.old_rows) == expected


def test_replace_forwards_all_and_trains_the_rest() -> None:
    plan = method("replace").plan(0, 0, 1)
    assert len(plan.forward_rows) == 20
    assert plan.trained == 14
    np.testing.assert_array_equal(plan.forward_rows[14:], plan.old_rows)


def test_skip_does_not_forward_what_it_replaces() -> None:
    replace, skip = method("replace").plan(0, 0, 1), method("skip").plan(0, 0, 1)
    np.testing.assert_array_equal(skip.forward_rows, replace.forward_rows[:14])
    np.testing.assert_array_equal(skip.old_rows, replace.old_rows)
    assert not set(skip.forward_rows) & set(skip.old_rows)


def test_bank_draws_without_replacement_from_credible_rows_alone() -> None:
    credible = np.arange(100) % 3 == 0
    plan = method("bank", 0.5, credible=credible).plan(0, 0, 0)
    assert len(plan.forward_rows) == plan.trained == 20
    assert len(set(plan.old_rows)) == 20
    assert credible[plan.old_rows].all()


def test_bank_draws_uniformly() -> None:
    drawing = method("bank", 0.5)
    counts = np.zeros(100)
    for epoch in range(200):
        for step in range(5):
            counts[drawing.plan(0, epoch, step).old_rows] += 1
    # 1,000 draws of 20 out of 100: 200 each, with a standard deviation of 12.6
    assert abs(counts - 200).max() < 60


@pytest.mark.parametrize("draw", ["replace", "skip", "bank"])
def test_fewer_credible_rows_than_asked_for(draw: str) -> None:
    credible = np.zeros(100, dtype=bool)
    credible[:3] = True
    drawing = method(draw, 0.5, credible=credible)
    for step in range(5):
        plan = drawing.plan(0, 0, step)
        assert len(plan.old_rows) <= 3
        assert plan.trained == len(plan.forward_rows) - (
            len(plan.old_rows) if draw == "replace" else 0
        )


def test_old_rows_of_classes_not_trained_are_not_drawn() -> None:
    labels = LABELS.copy()
    labels[::2] = -1
    plan = method("bank", 0.6, labels=labels, paired=False).plan(0, 0, 0)
    assert (plan.old_rows % 2 == 1).all()


def test_errors() -> None:
    with pytest.raises(BankError, match="not extracted from these training images"):
        method("skip", paired=False)
    with pytest.raises(BankError, match="no credible feature of any training class"):
        method("bank", credible=np.zeros(100, dtype=bool))


def test_a_contrast_alone_needs_a_credible_row_too() -> None:
    settings = MixBCTSettings(name="mixbct", bank="b", ratio=0.0, contrast=1.0, negatives=3)  # type: ignore[arg-type]

    def build(credible: bool) -> MixBCT:
        old = OldRows(
            LABELS, True, lambda rows: np.ones((len(rows), 6), np.float32), np.full(100, credible)
        )
        return MixBCT(settings, Task(LABELS, 20, old))

    assert len(build(True).plan(0, 0, 0).old_rows) == 20 + 3
    with pytest.raises(BankError, match="no credible feature of any training class"):
        build(False)


def test_loss_equals_a_loop_over_the_mixed_batch() -> None:
    torch.manual_seed(0)
    head = build_head(ArcFaceSettings(name="arcface", scale=8.0, margin=0.3), 5, 6).double()
    new = Features(torch.randn(9, 6, dtype=torch.float64), torch.randint(5, (9,)))
    old = Features(F.normalize(torch.randn(4, 6, dtype=torch.float64)), torch.randint(5, (4,)))
    loss = method("bank").losses(new, old, head, Progress(0, 1, 0.0))["mixed"]
    rows = [(f, y) for part in (new, old) for f, y in zip(part.values, part.labels, strict=True)]
    slow = sum(head(f[None], y[None]).item() for f, y in rows) / 13
    assert loss.item() == pytest.approx(slow, rel=1e-9)


def test_skip_equals_replace_without_batch_normalisation() -> None:
    """Same rows, same loss, same gradient: only the wasted forward passes differ."""
    torch.manual_seed(0)
    images = torch.randn(100, 12, dtype=torch.float64)
    bank = F.normalize(torch.randn(100, 6, dtype=torch.float64))
    head = build_head(ArcFaceSettings(name="arcface", scale=8.0), 5, 6).double()
    backbone = torch.nn.Sequential(
        torch.nn.Linear(12, 9), torch.nn.PReLU(), torch.nn.Linear(9, 6)
    ).double()
    gradients = []
    for draw in ("replace", "skip"):
        drawing = method(draw)
        backbone.zero_grad()
        plan = drawing.plan(0, 0, 2)
        values = backbone(images[plan.forward_rows])
        labels = torch.from_numpy(plan.forward_labels)
        new = Features(values[: plan.trained], labels[: plan.trained])
        old = Features(bank[plan.old_rows], torch.from_numpy(plan.old_labels))
        drawing.losses(new, old, head, Progress(0, 1, 0.0))["mixed"].backward()
        gradients.append([p.grad.clone() for p in backbone.parameters() if p.grad is not None])
    for replaced, skipped in zip(*gradients, strict=True):
        torch.testing.assert_close(replaced, skipped)


def contrasting(
    partner: str = "class", readout: float = 0.0, gallery_map: str | None = None, **old: object
) -> MixBCT:
    found = method("bank", 0.5, 20, **old)
    settings = MixBCTSettings(
        name="mixbct",
        bank="b",  # type: ignore[arg-type]
        draw="bank",
        ratio=0.5,
        contrast=2.0,
        temperature=0.1,
        partner=partner,  # type: ignore[arg-type]
        negatives=30,
        readout=readout,
        gallery_map=gallery_map,  # type: ignore[arg-type]
    )
    return MixBCT(settings, Task(LABELS, 20, found.old))


def test_contrasted_rows_are_the_mixed_ones_a_partner_each_and_more() -> None:
    credible = np.arange(100) % 3 == 0
    ours, plain = contrasting(credible=credible), method("bank", 0.5, credible=credible)
    for step in range(4):
        plan = ours.plan(1, 0, step)
        mixed = plain.plan(1, 0, step).old_rows
        np.testing.assert_array_equal(plan.old_rows[: len(mixed)], mixed)
        partners = plan.old_rows[len(mixed) : len(mixed) + 20]
        np.testing.assert_array_equal(LABELS[partners], plan.forward_labels)
        assert len(plan.old_rows) == len(mixed) + 20 + 30
        assert credible[plan.old_rows].all()
        np.testing.assert_array_equal(plan.old_labels, LABELS[plan.old_rows])


def test_a_partner_is_any_row_of_the_class() -> None:
    ours = contrasting()
    rows = np.concatenate([ours.plan(0, 0, step).old_rows[20:40] for step in range(5)])
    more = np.concatenate([ours.plan(s, 0, 0).old_rows[20:40] for s in range(60)])
    assert set(np.concatenate([rows, more]).tolist()) == set(range(100))


def test_an_own_partner_is_the_same_image_or_one_of_its_class_where_that_is_not_credible() -> None:
    credible = np.arange(100) % 3 == 0
    plan = contrasting("own", credible=credible).plan(1, 0, 0)
    partners = plan.old_rows[20:40]
    clear = credible[plan.forward_rows]
    assert 0 < clear.sum() < 20
    np.testing.assert_array_equal(partners[clear], plan.forward_rows[clear])
    np.testing.assert_array_equal(LABELS[partners], plan.forward_labels)
    assert credible[partners].all()


def test_an_own_partner_needs_a_bank_of_the_training_images() -> None:
    with pytest.raises(BankError, match=r"'own'.*set method.partner = 'class'"):
        contrasting("own", paired=False)


def test_classes_without_a_credible_row_have_no_partner_and_no_contrast() -> None:
    ours = contrasting(credible=LABELS != 2)
    plan = ours.plan(0, 0, 0)
    mixed = method("bank", 0.5, credible=LABELS != 2).plan(0, 0, 0)
    partners = plan.old_rows[len(mixed.old_rows) : -30]
    np.testing.assert_array_equal(LABELS[partners], plan.forward_labels[plan.forward_labels != 2])


def test_the_contrast_equals_a_loop() -> None:
    ours = contrasting()
    generator = torch.Generator().manual_seed(0)
    new = Features(
        torch.randn(20, 6, generator=generator, dtype=torch.float64),
        torch.from_numpy(LABELS[:20]),
    )
    drawn = torch.randn(70, 6, generator=generator, dtype=torch.float64)
    old = Features(F.normalize(drawn), torch.from_numpy(LABELS[30:100]))
    head = build_head(ArcFaceSettings(name="arcface"), 5, 6).double()
    found = ours.losses(new, old, head, Progress(0, 1, 0.0))
    total = 0.0
    for value, label in zip(new.values, new.labels, strict=True):
        scores = [float(F.normalize(value, dim=0) @ o) / 0.1 for o in old.values]
        below = np.log(np.sum(np.exp(scores)))
        right = [s - below for s, y in zip(scores, old.labels, strict=True) if y == label]
        total -= np.mean(right) if right else 0.0
    assert found["contrast"].item() == pytest.approx(2.0 * total / 20)
    # the first 20 old rows are mixed, the others are not
    alone = method("bank", 0.5).losses(
        new, Features(old.values[:20], old.labels[:20]), head, Progress(0, 1, 0.0)
    )
    assert found["mixed"].item() == pytest.approx(alone["mixed"].item())


def test_the_readout_equals_a_loop_over_rows_that_have_a_partner() -> None:
    ours = contrasting("own", readout=3.0, credible=LABELS != 2).double()
    plan = ours.plan(0, 0, 0)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    bank = F.normalize(torch.randn(100, 6, generator=generator, dtype=torch.float64))
    with torch.no_grad():
        ours.reader.add_(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    new = Features(values, torch.from_numpy(plan.forward_labels))
    old = Features(bank[plan.old_rows], torch.from_numpy(plan.old_labels))
    head = build_head(ArcFaceSettings(name="arcface"), 5, 6).double()
    found = ours.losses(new, old, head, Progress(0, 1, 0.0))
    total = 0.0
    for value, row, label in zip(values, plan.forward_rows, plan.forward_labels, strict=True):
        if label != 2:
            read = F.normalize(value @ ours.reader, dim=0)
            total += (read - bank[row]).square().sum().item()
    assert 0 < (plan.forward_labels == 2).sum() < 20
    assert found["readout"].item() == pytest.approx(3.0 * total / 20)
    found["readout"].backward()
    assert ours.reader.grad is not None


def test_a_readout_needs_the_partners_of_a_contrast() -> None:
    settings = MixBCTSettings(name="mixbct", bank="b", readout=1.0)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"set method.contrast"):
        MixBCT(settings, Task(LABELS, 20, method("bank").old))


def test_old_rows_go_through_their_map_but_for_the_readout() -> None:
    mapped, plain = (contrasting("own", 3.0, kind).double() for kind in ("projection", None))
    plan = mapped.plan(0, 0, 0)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    bank = F.normalize(torch.randn(100, 6, generator=generator, dtype=torch.float64))
    shift = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    assert torch.equal(mapped.gallery_map(), torch.eye(6, dtype=torch.float64))
    assert plain.gallery_map() is None
    head = build_head(ArcFaceSettings(name="arcface"), 5, 6).double()
    new = Features(values, torch.from_numpy(plan.forward_labels))
    old = Features(bank[plan.old_rows], torch.from_numpy(plan.old_labels))
    stored = plain.losses(new, old, head, Progress(0, 1, 0.0))
    for moved in (False, True):
        with torch.no_grad():
            mapped.shift.copy_(shift * moved)
        seen = F.normalize(old.values @ mapped.gallery_map())
        expected = plain.losses(new, Features(seen, old.labels), head, Progress(0, 1, 0.0))
        found = mapped.losses(new, old, head, Progress(0, 1, 0.0))
        assert found.keys() == expected.keys()
        for name in ("mixed", "contrast"):
            torch.testing.assert_close(found[name], expected[name])
            assert torch.allclose(found[name], stored[name]) != moved
        torch.testing.assert_close(found["readout"], stored["readout"])
    # each of both losses of old rows trains it
    for name in ("mixed", "contrast"):
        (gradient,) = torch.autograd.grad(found[name], mapped.shift, retain_graph=True)
        assert gradient.abs().max() > 1e-6
    assert torch.equal(mapped.gallery_map(), torch.eye(6, dtype=torch.float64) + shift)


def test_a_map_of_old_rows_needs_old_rows() -> None:
    settings = MixBCTSettings(
        name="mixbct",
        bank="b",  # type: ignore[arg-type]
        ratio=0.0,
        gallery_map="projection",
    )
    with pytest.raises(RecipeError, match=r"gallery_map.*raise method.ratio"):
        MixBCT(settings, Task(LABELS, 20, method("bank").old))


@pytest.mark.parametrize("draw", ["replace", "skip"])
def test_a_contrast_is_for_the_bank_alone(draw: str) -> None:
    settings = MixBCTSettings(name="mixbct", bank="b", draw=draw, contrast=1.0)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"contrast.*'bank'"):
        MixBCT(settings, Task(LABELS, 20, method("bank").old))


def test_weighted_old_rows_are_a_mean_of_their_own() -> None:
    plain = method("bank", 0.5)
    settings = MixBCTSettings(name="mixbct", bank="b", draw="bank", ratio=0.5, old_weight=3.0)  # type: ignore[arg-type]
    ours = MixBCT(settings, Task(LABELS, 20, plain.old))
    generator = torch.Generator().manual_seed(1)
    new = Features(torch.randn(20, 6, generator=generator), torch.from_numpy(LABELS[:20]))
    drawn = F.normalize(torch.randn(20, 6, generator=generator))
    old = Features(drawn, torch.from_numpy(LABELS[30:50]))
    head = build_head(ArcFaceSettings(name="arcface"), 5, 6)
    found = ours.losses(new, old, head, Progress(0, 1, 0.0))
    fresh = sum(head(f[None], y[None]).item() for f, y in zip(new.values, new.labels, strict=True))
    past = sum(head(f[None], y[None]).item() for f, y in zip(old.values, old.labels, strict=True))
    assert found["new"].item() == pytest.approx(fresh / 20, rel=1e-5)
    assert found["old"].item() == pytest.approx(3.0 * past / 20, rel=1e-5)
    mixed = plain.losses(new, old, head, Progress(0, 1, 0.0))["mixed"]
    assert mixed.item() == pytest.approx((fresh + past) / 40, rel=1e-5)
