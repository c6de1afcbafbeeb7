"""The gate: does a result prove that the new model may replace the old one?

A pure function of a result. A gate that passed can write the edge that lets the new model's
queries search vectors that the old model made.
"""

from pydantic import Field

from mixbct.errors import ContractError, ResultError
from mixbct.schemas.gate import Edge, GateCheck, GateOutcome
from mixbct.schemas.record import Record
from mixbct.schemas.result import Difference, Estimate, Result, tar_name


class GateSettings(Record):
    """What the gate asks for."""

    gains: tuple[str, ...] = Field(
        ("mAP", "rank-1", "TAR@1e-3"),
        min_length=1,
        description="metrics on which new/old must be significantly better than old/old",
    )
    strict: tuple[str, ...] = Field(
        ("TAR@1e-4",),
        description="metrics on which new/old must not be significantly worse than old/old",
    )
    self_test_loss: float = Field(
        0.015, ge=0, description="how much mAP new/new may lose against the independent model"
    )
    far_tolerance: float = Field(
        2.0, gt=0, description="how many times its rate the carried-over threshold may accept"
    )


def judge(result: Result, settings: GateSettings | None = None) -> GateOutcome:
    """Return the outcome of the gate.

    The checks, in order: each gain's lower 95 % bound is above zero; each strict metric's upper
    bound is not below zero; new/new keeps its mAP (only where an independent model was
    evaluated); the carried-over threshold keeps its false-accept rate on unseen classes. Where the
    test set has too few impostor pairs to measure these rates, a check says so and fails.

    Args:
        result: an evaluation of an upgrade.
        settings: the defaults where it is None.

    Raises:
        ResultError: the result lacks the paired difference, or a metric that is asked for.
    """
    settings = settings or GateSettings()
    difference = result.difference("new/old", "old/old")
    if difference is None:
        raise ResultError(
            "the result holds no paired difference of new/old and old/old; evaluate it again"
        )
    checks = [_gain(name, _metric(difference, name)) for name in settings.gains]
    checks += [_not_worse(name, _metric(difference, name)) for name in settings.strict]
    checks += _self_test(result, settings.self_test_loss)
    checks.append(_carried_threshold(result, settings.far_tolerance))
    checks += _too_few_pairs(result, (*settings.gains, *settings.strict))
    return GateOutcome(
        passed=all(check.passed for check in checks),
        checks=tuple(checks),
        result_digest=result.digest(),
    )


def edge_from(result: Result, outcome: GateOutcome) -> Edge:
    """Return the edge over which the new model's queries may search the old model's vectors.

    Raises:
        ContractError: the gate did not pass.
        ResultError: the outcome was not reached on this result, or a model has no contract.
    """
    if outcome.result_digest != result.digest():
        raise ResultError(
            f"the gate's outcome belongs to result {outcome.result_digest[:16]}, not to "
            f"{result.digest()[:16]}; run the gate on this result"
        )
    if not outcome.passed:
        failed = ", ".join(check.name for check in outcome.checks if not check.passed)
        raise ContractError(f"the gate did not pass ({failed}), so it cannot tie the two models")
    missing = [role for role in ("new", "old") if role not in result.models]
    if missing:
        raise ResultError(
            f"the result names no contract of the {' and the '.join(missing)} model; it has "
            f"{', '.join(result.models) or 'none'}"
        )
    return Edge(
        from_contract=result.models["new"],
        to_contract=result.models["old"],
        result_digest=outcome.result_digest,
        threshold=result.carried_threshold.threshold,
        far=result.carried_threshold.far,
        bridge=result.bridge,
    )


def _metric(difference: Difference, name: str) -> Estimate:
    if name not in difference.metrics:
        raise ResultError(
            f"the result has no metric {name!r}; it has {', '.join(difference.metrics)}"
        )
    return difference.metrics[name]


def _gain(name: str, gain: Estimate) -> GateCheck:
    passed = gain.low > 0
    return GateCheck(
        name=f"gain in {name}",
        value=gain.low,
        bound=0.0,
        passed=passed,
        says=(
            f"{name} of new/old {'gains' if passed else 'does not surely gain'} on old/old: "
            f"{_signed(gain)}, and the lower bound must be above 0."
        ),
    )


def _not_worse(name: str, change: Estimate) -> GateCheck:
    passed = change.high >= 0
    return GateCheck(
        name=f"no loss in {name}",
        value=change.high,
        bound=0.0,
        passed=passed,
        says=(
            f"{name} of new/old {'does not fall' if passed else 'falls'} below old/old by more "
            f"than its interval: {_signed(change)}, and the upper bound must not be below 0."
        ),
    )


def _self_test(result: Result, allowed: float) -> list[GateCheck]:
    if not {"new/new", "independent/independent"} <= result.combinations.keys():
        return []
    ours = result.combinations["new/new"].mean_average_precision.value
    theirs = result.combinations["independent/independent"].mean_average_precision.value
    passed = ours >= theirs - allowed
    return [
        GateCheck(
            name="self-test",
            value=ours,
            bound=theirs - allowed,
            passed=passed,
            says=(
                f"mAP of new/new is {ours:.1%}, {100 * (ours - theirs):+.1f} points against "
                f"{theirs:.1%} of the independent model; it may lose no more than "
                f"{100 * allowed:g} points"
                f"{'.' if passed else ', and loses more.'}"
            ),
        )
    ]


def _carried_threshold(result: Result, tolerance: float) -> GateCheck:
    carried = result.carried_threshold
    bound = tolerance * carried.far
    passed = carried.measured_far <= bound
    return GateCheck(
        name="carried-over threshold",
        value=carried.measured_far,
        bound=bound,
        passed=passed,
        says=(
            f"At the threshold {carried.threshold:.4f}, set for a false-accept rate of "
            f"{carried.far:g}, new/old accepts {carried.measured_far:.2e} of impostor pairs of "
            f"other classes; {'at most' if passed else 'that is more than'} {bound:g} "
            f"{'is' if passed else 'that is'} allowed."
        ),
    )


def _too_few_pairs(result: Result, names: tuple[str, ...]) -> list[GateCheck]:
    """Return a check that fails where a false-accept rate is finer than the test set can show."""
    cross = result.combinations["new/old"]
    fars = [point.far for point in cross.operating_points if tar_name(point.far) in names]
    # the carried-over threshold is set on one half of the classes
    needed = max([2 / result.carried_threshold.far, *(1 / far for far in fars)])
    if cross.impostor_pairs >= needed:
        return []
    return [
        GateCheck(
            name="impostor pairs",
            value=cross.impostor_pairs,
            bound=needed,
            passed=False,
            says=(
                f"The test set has {cross.impostor_pairs:,} impostor pairs; the false-accept rates "
                f"that are judged need {needed:,.0f} at least: add test classes or images."
            ),
        )
    ]


def _signed(change: Estimate) -> str:
    value, low, high = (100 * figure for figure in (change.value, change.low, change.high))
    return f"{value:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
