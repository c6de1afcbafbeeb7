"""Results that look like real ones: scores drawn from two normal laws a combination."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from mixbct.schemas.gate import GateCheck, GateOutcome
from mixbct.schemas.model import Contract, Preprocessing
from mixbct.schemas.result import (
    CarriedThreshold,
    Combination,
    Curve,
    Difference,
    Estimate,
    Example,
    Histogram,
    Match,
    ModelCost,
    OperatingPoint,
    Result,
)

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABc3UBGAAA"
    "AABJRU5ErkJggg=="
)
FARS = (1e-2, 1e-3, 1e-4)

# name → mAP, rank-1, mean and spread of genuine scores
FIGURES = {
    "old/old": (0.678, 0.926, 0.50, 0.165),
    "new/old": (0.754, 0.950, 0.53, 0.155),
    "new/new": (0.894, 0.981, 0.62, 0.120),
    "independent/old": (0.004, 0.003, 0.01, 0.130),
    "procrustes/old": (0.653, 0.931, 0.47, 0.160),
    "independent/independent": (0.901, 0.983, 0.63, 0.120),
    "new/10 % new": (0.764, 0.953, 0.535, 0.154),
    "new/50 % new": (0.811, 0.966, 0.565, 0.142),
    "new/90 % new": (0.878, 0.978, 0.61, 0.125),
}
IMPOSTOR = NormalDist(0.02, 0.125)


def figure(value: float, half: float = 0.011) -> Estimate:
    return Estimate(value=value, low=max(value - half, 0.0), high=min(value + half, 1.0))


def combination(name: str) -> Combination:
    average_precision, rank1, mean, spread = FIGURES[name]
    genuine = NormalDist(mean, spread)
    query, gallery = name.split("/", 1)
    fars = np.logspace(-7, 0, 71)[:-1]
    edges = np.linspace(-1, 1, 41)

    def tar(far: float) -> float:
        return 1 - genuine.cdf(IMPOSTOR.inv_cdf(1 - far))

    def density(law: NormalDist) -> tuple[float, ...]:
        return tuple(float(x) for x in np.diff([law.cdf(edge) for edge in edges]) * 20)

    ranks = np.arange(1, 51)
    found = 1 - (1 - rank1) / ranks ** (0.7 if rank1 > 0.1 else 0.01)
    return Combination(
        query=query,
        gallery=gallery,
        mean_average_precision=figure(average_precision),
        rank1=figure(rank1, 0.006),
        rank5=figure(float(found[4]), 0.006),
        operating_points=tuple(
            OperatingPoint(
                far=far,
                tar=figure(tar(far)),
                threshold=IMPOSTOR.inv_cdf(1 - far),
                measured_far=far,
                resolved=far >= 1e-3,
            )
            for far in FARS
        ),
        genuine_pairs=58_231,
        impostor_pairs=29_057_269,
        roc=Curve(x=tuple(map(float, fars)), y=tuple(tar(float(far)) for far in fars)),
        cmc=Curve(x=tuple(map(float, ranks)), y=tuple(map(float, found))),
        histogram=Histogram(
            edges=tuple(map(float, edges)), genuine=density(genuine), impostor=density(IMPOSTOR)
        ),
    )


def difference(of: Combination, minus: Combination) -> Difference:
    gaps = {name: value.value - minus.metric(name).value for name, value in of.metrics().items()}
    return Difference(
        of=f"{of.query}/{of.gallery}",
        minus=f"{minus.query}/{minus.gallery}",
        metrics={
            name: Estimate(value=gap, low=gap - 0.012, high=gap + 0.012)
            for name, gap in gaps.items()
        },
    )


def contract(name: str, dim: int) -> Contract:
    return Contract(
        name=name,
        weights=name * 8,
        preprocessing=Preprocessing(size=32, channels=1),
        dim=dim,
    )


@pytest.fixture
def make_result() -> Callable[..., Result]:
    """Return a function: names of combinations (none: all), then fields to override."""

    def make(names: tuple[str, ...] = tuple(FIGURES), **fields: object) -> Result:
        combinations = {name: combination(name) for name in names}
        base = combination("old/old")
        hits = [
            Match(key=f"{label}/font{i}.png", label=label, score=0.7 - 0.05 * i, image=PNG)
            for i, label in enumerate("亜唖娃阿哀")
        ]
        complete: dict[str, object] = {
            "title": "Kanji glyphs: width 8 to width 32, MixBCT (bank, α = 0.5)",
            "created": "2025-01-02T03:04:05+00:00",
            "versions": {"mixbct": "0.1.0", "torch": "2.13.0", "python": "3.11.2"},
            "seed": 7,
            "data": {
                "source": "glyphs",
                "test classes": 500,
                "gallery rows": 12_000,
                "query rows": 3_500,
                "content digest": "5f2c" * 16,
            },
            "models": {
                "old": contract("old-w8", 128),
                "new": contract("new-w32", 128),
                "independent": contract("independent-w32", 128),
            },
            "combinations": combinations,
            "differences": tuple(
                difference(one, base) for one in combinations.values() if one != base
            ),
            "update_gain": Estimate(value=0.341, low=0.302, high=0.379),
            "negative_flips": 0.0123,
            "carried_threshold": CarriedThreshold(
                far=1e-3,
                old_threshold=0.4062,
                far_at_old_threshold=0.0013,
                threshold=0.4187,
                measured_far=0.00097,
            ),
            "costs": {
                "old": ModelCost(seconds=41.25, images=137_250, steps=540),
                "new": ModelCost(seconds=128.5, images=1_234_567, steps=4_820),
            },
            "examples": (
                Example(
                    key="query/1",
                    label="娃",
                    image=PNG,
                    before=tuple(hits),
                    after=tuple(reversed(hits)),
                ),
            ),
        }
        return Result.model_validate(complete | fields)

    return make


@pytest.fixture
def result(make_result: Callable[..., Result]) -> Result:
    """Return a result with every combination and every part."""
    return make_result()


@pytest.fixture
def make_outcome() -> Callable[..., GateOutcome]:
    """Return a function: a result, and whether the gate's last check passed."""

    def make(result: Result, passed: bool = True) -> GateOutcome:
        gains = [
            GateCheck(
                name=f"gain in {name}",
                value=0.0623,
                bound=0.0,
                passed=True,
                says=f"{name} of new/old gains on old/old: +0.0760 (95 % interval +0.0623 to "
                "+0.0891), and the lower bound must be above 0.",
            )
            for name in ("mAP", "rank-1", "TAR@1e-3")
        ]
        last = GateCheck(
            name="carried-over threshold",
            value=0.00097 if passed else 0.0042,
            bound=0.002,
            passed=passed,
            says="At the threshold 0.4187, set for a false-accept rate of 0.001, new/old accepts "
            f"{'9.70e-04' if passed else '4.20e-03'} of impostor pairs of other classes.",
        )
        return GateOutcome(passed=passed, checks=(*gains, last), result_digest=result.digest())

    return make
