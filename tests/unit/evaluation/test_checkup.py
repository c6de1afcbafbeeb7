"""A check-up against slow loops, and on made-up spaces of one model and of two."""

import itertools

import numpy as np
import pytest

from mixbct.evaluation.checkup import (
    Readings,
    labels_of,
    mixture_of,
    nearest,
    norms_of,
    read,
    space_of,
    two_groups,
)

RNG = np.random.default_rng(0)


def readings(vectors: np.ndarray, block: int = 100) -> Readings:
    keys = [f"k{i}" for i in range(len(vectors))]
    starts = range(0, len(vectors), block)
    blocks = ((keys[i : i + block], vectors[i : i + block].astype(np.float32)) for i in starts)
    return read(blocks, *vectors.shape)


def test_figures_agree_with_slow_loops() -> None:
    vectors = (RNG.normal(size=(60, 7)) * np.arange(1, 8) + 2).astype(np.float32)
    found = readings(vectors, 17)
    unit = [v / np.sqrt(sum(float(x) ** 2 for x in v)) for v in vectors.astype(float)]
    cosines = [float(a @ b) for a, b in itertools.combinations(unit, 2)]
    space = space_of(found, nearest(found))
    assert space is not None
    assert space.mean_cosine == pytest.approx(np.mean(cosines), abs=1e-12)
    values = np.linalg.eigvalsh(np.cov(np.array(unit).T, bias=True))
    shares = values / values.sum()
    assert space.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    norms = norms_of(found)
    assert norms is not None
    lengths = [float(np.linalg.norm(v.astype(float))) for v in vectors]
    assert (norms.least, norms.largest) == pytest.approx((min(lengths), max(lengths)))


def test_faulty_rows_are_counted_and_named() -> None:
    vectors = RNG.normal(size=(300, 4)).astype(np.float32)
    vectors[7, 2] = np.nan
    vectors[8, 0] = np.inf
    vectors[250] = 0
    # numbers whose squares float32 does not hold are no fault
    vectors[9] *= np.float32(1e30)
    found = readings(vectors)
    assert found.faulty == ("k7", "k8", "k250")
    assert np.flatnonzero(~np.isfinite(found.norms)).tolist() == [7, 8]
    assert np.flatnonzero(found.norms == 0).tolist() == [250]
    assert len(found.norms) == 300
    assert int(found.fine.sum()) == 297
    assert np.isfinite(found.total).all()


def test_duplicates() -> None:
    vectors = RNG.normal(size=(200, 16)).astype(np.float32)
    vectors[50:60] = vectors[0:10]  # to the bit
    vectors[100] = vectors[20] * 3  # in direction
    vectors[101] = vectors[21] + 1e-3
    vectors[110] = np.roll(vectors[30], 1)  # the same numbers elsewhere
    found = readings(vectors)
    assert found.exact_duplicates == 10
    near = nearest(found)
    pairs = {tuple(sorted((i, int(j)))) for i, j in enumerate(near) if j >= 0}
    assert pairs == {*((i, i + 50) for i in range(10)), (20, 100), (21, 101)}
    labels: list[str | None] = [f"l{i}" for i in range(200)]
    labels[50:60] = labels[0:10]
    labels[100] = None
    counts = labels_of(labels, found, near)
    assert counts is not None
    # of 21 and 101 both are looked at; 20's twin has no label
    assert counts.near_duplicates_across == 2
    assert (counts.labels, counts.unlabelled, counts.largest) == (189, 1, 2)
    assert labels_of([None] * 200, found, near) is None


def test_too_little_to_say() -> None:
    assert len(readings(np.zeros((0, 3))).norms) == 0
    assert space_of(readings(np.ones((1, 3))), np.full(1, -1)) is None
    alike = readings(np.ones((100, 3)))
    space = space_of(alike, nearest(alike))
    assert space is not None
    assert space.mean_cosine == pytest.approx(1)
    assert space.effective_rank == pytest.approx(1)
    assert mixture_of(alike) == ()


def model(seed: int, dim: int, decay: float, cone: float):
    """Return an encoder of latent vectors: rotated, of unequal variances, off the origin."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    scale = np.arange(1, dim + 1) ** -decay
    mean = turn @ rng.normal(size=dim)
    mean *= cone * np.linalg.norm(scale) / np.linalg.norm(mean)
    return lambda latent: (latent * scale) @ turn + mean


@pytest.mark.parametrize("dim", [32, 128])
@pytest.mark.parametrize("decay", [0.3, 0.7])
@pytest.mark.parametrize("cone", [0, 1.5])
@pytest.mark.parametrize("classes", [20, 500])
def test_signs_of_two_models(dim: int, decay: float, cone: float, classes: int) -> None:
    rng = np.random.default_rng(1)
    labels = np.sort(rng.integers(classes, size=2000))  # stored class by class
    latent = rng.normal(size=(classes, dim))[labels] + 0.7 * rng.normal(size=(2000, dim))
    one, other = model(1, dim, decay, cone), model(2, dim, decay, cone)
    assert mixture_of(readings(one(latent))) == ()
    late = np.arange(2000) >= 1300
    changed = mixture_of(readings(np.where(late[:, None], other(latent), one(latent))))
    assert "order" in [sign.sign for sign in changed]
    by_chance = rng.random(2000) < 0.4
    mixed = mixture_of(readings(np.where(by_chance[:, None], other(latent), one(latent))))
    # two models around the origin leave no trace that is seen without labels
    assert [sign.sign for sign in mixed] == (["halves"] if cone else [])


def test_two_scales() -> None:
    vectors = RNG.normal(size=(500, 20))
    assert mixture_of(readings(vectors)) == ()
    vectors[::4] *= 7
    signs = mixture_of(readings(vectors))
    assert [sign.sign for sign in signs] == ["norms"]
    assert "25%" in signs[0].says


@pytest.mark.parametrize(
    ("values", "share"),
    [
        (np.concatenate([RNG.normal(0, 1, 300), RNG.normal(20, 1, 100)]), 0.25),
        (RNG.normal(0, 1, 400), None),
        (RNG.uniform(0, 1, 400), None),
        (np.concatenate([RNG.normal(0, 1, 400), [50.0]]), None),
    ],
)
def test_groups_of_numbers(values: np.ndarray, share: float | None) -> None:
    cut = two_groups(values)
    assert (cut and cut.share) == share
