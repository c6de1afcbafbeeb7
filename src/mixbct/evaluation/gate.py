"""The gate: does a result prove that the new model may replace the old one?

New queries against the old gallery are judged by paired differences to what is deployed, old/old;
beside them stands whether they are worth more than what the old model can do alone, whitened on
both sides (whiten/old), which costs no new model.

A pure function of a result. A gate that passed can write the edge that lets the new model's
queries search vectors that the old model made; one that failed says what to try next.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from mixbct.errors import ContractError, ResultError
from mixbct.evaluation.calibration import thresholds_at
from mixbct.schemas.gate import Edge, GateCheck, GateOutcome, PairThreshold
from mixbct.schemas.record import Record, one_line
from mixbct.schemas.result import (
    FREE,
    ROUNDING,
    CarriedThreshold,
    Estimate,
    Rate,
    Result,
    Standing,
    tar_name,
)

_TRAINING: Mapping[Standing, str] = {
    "apart": "no test class has the name of one that {} was trained on",
    "head": "no test class has the name of one that {} was trained on, as a head; what the encoder "
    "below it saw cannot be known",
    "declared": "test classes have names of classes that {} was trained on, and were declared to "
    "be others",
    "unknown": "what {} was trained on cannot be known, since its vectors or weights came from "
    "elsewhere",
    "unnamed": "of which classes the items were that {} was fitted on is not known, so that nobody "
    "can tell whether test classes are among them",
}
_CLOSER = (
    "tie the new model closer to the old one (a higher method.ratio, method.weight or "
    "method.contrast), train longer (train.epochs), or give it a bridge (`mixbct adapt`)"
)
_MORE = "add test classes or images: the gain is there, but its interval is too wide"
_WIDE = "add test classes or images: there may be no loss, but the interval is too wide to tell"
_LOOSER = (
    "tie the new model less to the old one (a lower method.ratio, method.weight or "
    "method.contrast), train longer (train.epochs), or give it more dimensions (model.dim) with a "
    "method.query_map"
)
_STEADIER = (
    "add test classes, so that the threshold is set and measured on more of them; if it stays so, "
    "tie the new model closer to the old one"
)


_NO_FLIPS = (
    "search with both queries, which keeps what the old model knew (`mixbct gallery search "
    "--old-model`), or tie the new model closer to the old one (a higher method.ratio, "
    "method.weight or method.contrast); the report names the classes that lost most"
)

CARRIED, FEW = "carried-over threshold", "impostor pairs"
LEAST_CLASSES = 30
"""Query classes below which a bootstrap over classes is not believed.

Of two models that are equal, a lower 95 % bound must be above zero by chance in 2.5 % of test sets.
Simulated, it is in 24 % with 2 classes, 10 % with 4, 5 % with 10 and 3.2 to 3.8 % with 30.
"""


class GateSettings(Record):
    """What the gate asks for. Losses are parts of one: 0.03 is 3 points."""

    gains: tuple[str, ...] = Field(("mAP", "rank-1", "TAR@1e-3"), min_length=1)
    """Metrics on which new/old must be significantly better."""
    strict: tuple[str, ...] = ("TAR@1e-4",)
    """Metrics on which new/old must surely not lose the margin."""
    against: Literal["old", "best"] = "old"
    """Than what: old/old, or the better of it and whiten/old in each metric."""
    margin: float = Field(0.03, ge=0, le=1)
    """How much of a strict metric, or of one at its ceiling, may be lost for sure; some 500 classes
    tell apart 2 to 3 points of a TAR at 1e-4."""
    self_test_loss: float = Field(0.015, ge=0, le=1)
    """How much mAP new/new may lose for sure to the independent model."""
    far_tolerance: float = Field(2.0, gt=0, le=1e6)
    """How many times its rate the carried-over threshold may accept."""
    max_flips: float | None = Field(None, ge=0, le=1)
    """What share of the queries may surely be right before and wrong now; None: any.

    There is no limit unless one is asked for. Such flips come with any change of model, also with
    one that gains (Yan et al., CVPR 2021), so what is harmless depends on who bears them."""
    fars: tuple[Rate, ...] = Field((1e-3,), min_length=1)
    """False-accept rates that thresholds are set for; the first is the edge's."""


def judge(result: Result, settings: GateSettings | None = None) -> GateOutcome:
    """Return the outcome of the gate.

    The checks, in order, by paired differences with their 95 % intervals: each gain's lower bound
    is above zero; each strict metric's is not below minus the margin; new/new keeps its mAP, its
    lower bound likewise (only where an independent model was evaluated); the carried-over threshold
    keeps each false-accept rate asked for on unseen classes. Not to be significantly worse is not
    enough: that is had with few data. A gain in a figure whose own interval reaches 100 % could not
    be shown by a perfect model, so it is judged like a strict metric. Where the test set has too
    few impostor pairs to measure these rates, or too few classes for intervals, a check says so
    and fails.

    Args:
        result: an evaluation of an upgrade.
        settings: the defaults where it is None.

    Raises:
        ResultError: the result lacks a paired difference, or a metric that is asked for, or its
            figures contradict each other.
    """
    settings = settings or GateSettings()
    _refuse_contradictions(result)
    free = f"{FREE}/old"
    bases = ["old/old"] if settings.against == "old" else ["old/old", free]
    checks = _over(result, bases, settings)
    checks += _self_test(result, settings.self_test_loss)
    checks += _flips(result, settings.max_flips)
    thresholds = thresholds_at(result, settings.fars)
    carried = result.carried_threshold
    for one in [each for each in thresholds if each.pair == "new/old"] or (carried,):
        name = f"{CARRIED}{'' if one.far == carried.far else f' at {one.far:g}'}"
        checks.append(_carried_threshold(one, settings.far_tolerance, name))
    checks += _too_few(result, (*settings.gains, *settings.strict), min(settings.fars))
    beside = free not in bases and result.difference("new/old", free) is not None
    return GateOutcome(
        passed=all(check.passed for check in checks),
        checks=tuple(checks),
        beside=tuple(_over(result, [free], settings)) if beside else (),
        thresholds=thresholds,
        result_digest=result.digest(),
        training=training_says(result.trained_apart),
    )


def training_says(standings: Mapping[str, Standing]) -> str:
    """Return what is known of the classes that each model (by role) saw in training."""
    if not standings:
        return "Whether a model saw the test classes in training was not looked at."
    found = []
    for standing, sentence in _TRAINING.items():
        alike = [role for role, one in standings.items() if one == standing]
        if roles := [f"the {role}" for role in alike if role != "bridge"]:
            named = " and ".join([", ".join(roles[:-1]), roles[-1]] if roles[1:] else roles)
            found.append(sentence.format(f"{named} model"))
        if "bridge" in alike:
            found.append(sentence.format("the bridge"))
    return f"{found[0][0].upper()}{'; '.join(found)[1:]}."


def edge_from(result: Result, outcome: GateOutcome) -> Edge:
    """Return the edge over which the new model's queries may search the old model's vectors.

    Raises:
        ContractError: the gate did not pass.
        ResultError: the outcome was not reached on this result, or a model has no contract.
    """
    outcome.check(result)
    if not outcome.passed:
        failed = ", ".join(check.name for check in outcome.checks if not check.passed)
        raise ContractError(f"the gate did not pass ({failed}), so it cannot tie the two models")
    if missing := [role for role in ("new", "old") if role not in result.models]:
        raise ResultError(
            f"the result names no contract of the {' and the '.join(missing)} model; it has "
            f"{one_line(', '.join(result.models)) or 'none'}"
        )
    bridge = result.bridge
    if bridge and bridge.fit:  # whose names a gallery has no need of
        bridge = bridge.model_copy(update={"fit": bridge.fit.model_copy(update={"classes": ()})})
    decided = next(
        (one for one in outcome.thresholds if one.pair == "new/old"), result.carried_threshold
    )
    return Edge(
        from_contract=result.models["new"],
        to_contract=result.models["old"],
        result_digest=outcome.result_digest,
        threshold=decided.threshold,
        far=decided.far,
        bridge=bridge,
        old_queries=result.old_queries,
        calibrations={pair: halves.set_on for pair, halves in result.calibrations.items()},
    )


def _refuse_contradictions(result: Result) -> None:
    """Refuse a result whose figures deny each other, as those of no evaluation do."""
    for pair in result.differences:
        sides = [result.combinations.get(name) for name in (pair.of, pair.minus)]
        figures = [side.metrics() if side else {} for side in sides]
        for metric, change in pair.metrics.items():
            of, minus = (one[metric].value if metric in one else None for one in figures)
            if of is None or minus is None or abs(of - minus - change.value) > ROUNDING:
                raise ResultError(
                    "the result contradicts itself: "
                    f"{one_line(f'{metric} of {pair.of} − {pair.minus}')} is said to be "
                    f"{change.value:g}, and the two to be {of} and {minus}; evaluate the upgrade "
                    "again"
                )


def _check(name: str, value: float, bound: float, passed: bool, says: str, more: str) -> GateCheck:
    said = {"says": says, "remedy": None if passed else more}
    return GateCheck(name=name, value=value, bound=bound, passed=passed, **said)


def _paired(result: Result, metric: str, of: str, minus: str) -> Estimate:
    found = result.difference(of, minus)
    if found is None:
        why = f" ({one_line(result.left_out[minus])})" if minus in result.left_out else ""
        says = f"the result holds no paired difference of {of} and {minus}{why}"
        raise ResultError(f"{says}; evaluate it again")
    if metric not in found.metrics:
        there = one_line(", ".join(found.metrics))
        raise ResultError(f"the result has no metric {metric!r}; it has {there}")
    return found.metrics[metric]


def _over(result: Result, bases: Sequence[str], settings: GateSettings) -> list[GateCheck]:
    """Return a check a metric: new/old against that of `bases` which is best in it."""
    margin = settings.margin
    checks = [gain_check(each, *_best(result, each, bases), margin) for each in settings.gains]
    for metric in settings.strict:
        base, _, change = _best(result, metric, bases)
        name, what = f"no loss in {metric}", f"{metric} of new/old"
        checks.append(loss_check(name, what, base, change, margin))
    return checks


def _best(result: Result, metric: str, bases: Sequence[str]) -> tuple[str, Estimate, Estimate]:
    """Return the best of `bases`, what it reaches, and how new/old differs from it."""
    changes = {base: _paired(result, metric, "new/old", base) for base in bases}
    figures = {base: result.combinations[base].metric(metric) for base in bases}
    base = max(bases, key=lambda one: figures[one].value)
    return base, figures[base], changes[base]


def gain_check(
    metric: str, base: str, before: Estimate, gain: Estimate, margin: float
) -> GateCheck:
    """Return the check of a gain, or of no loss where a perfect model could not gain for sure."""
    name = f"gain in {metric}"
    if before.high >= 1 - ROUNDING:
        ceiling = (
            f"{metric} of {base}, {before.value:.1%}, is at its ceiling: its interval reaches "
            "100 %, so that not even a perfect model would surely gain. "
        )
        return loss_check(name, f"{ceiling}{metric} of new/old", base, gain, margin)
    passed = gain.low > 0
    says = (
        f"{metric} of new/old {'gains' if passed else 'does not surely gain'} on {base}: "
        f"{signed(gain)}, and the lower bound must be above 0."
    )
    return _check(name, gain.low, 0.0, passed, says, _MORE if gain.value > 0 else _CLOSER)


def loss_check(
    name: str, what: str, base: str, change: Estimate, margin: float, where_lost: str = _CLOSER
) -> GateCheck:
    """Return the check that a figure surely loses no more than a margin."""
    passed = change.low >= -margin
    says = (
        f"{what} {'loses no more' if passed else 'may lose more'} than {100 * margin:g} points on "
        f"{base}: {signed(change)}, and the lower bound must not be below -{100 * margin:g}."
    )
    lost = change.value < -margin or change.high < 0
    return _check(name, change.low, -margin, passed, says, where_lost if lost else _WIDE)


def _self_test(result: Result, allowed: float) -> list[GateCheck]:
    free = "independent/independent"
    if not {"new/new", free} <= result.combinations.keys():
        return []
    change = _paired(result, "mAP", "new/new", free)
    return [loss_check("self-test", "mAP of new/new", free, change, allowed, _LOOSER)]


def _flips(result: Result, allowed: float | None) -> list[GateCheck]:
    if allowed is None:
        return []
    if result.flips is None:
        raise ResultError("the result does not say how sure its negative flips are; evaluate again")
    found = result.flips.negative
    passed = found.high <= allowed
    says = (
        f"{found.value:.2%} of the queries (95 % interval {found.low:.2%} to {found.high:.2%}), in "
        f"{result.flips.classes:,} classes, were right under old/old and are wrong under new/old; "
        f"the upper bound must not be above {allowed:.2%}."
    )
    return [_check("negative flips", found.high, allowed, passed, says, _NO_FLIPS)]


def _carried_threshold(
    carried: CarriedThreshold | PairThreshold, tolerance: float, name: str
) -> GateCheck:
    bound = tolerance * carried.far
    passed = carried.measured_far <= bound
    says = (
        f"At the threshold {carried.threshold:.4f} (the old system's is "
        f"{carried.old_threshold:.4f}), set for a false-accept rate of {carried.far:g}, new/old "
        f"accepts {carried.measured_far:.2e} of impostor pairs of other classes; "
        f"{'at most' if passed else 'that is more than'} {bound:g} "
        f"{'is' if passed else 'that is'} allowed. With the old system's threshold left as it is, "
        f"it accepts {carried.far_at_old_threshold:.2e}."
    )
    return _check(name, carried.measured_far, bound, passed, says, _STEADIER)


def _too_few(result: Result, names: Sequence[str], far: float) -> list[GateCheck]:
    """Return checks that fail: of false-accept rates, and of intervals, too fine for the test set.

    Args:
        result: the result.
        names: the metrics that are judged.
        far: the lowest rate that a threshold is set for.
    """
    cross = result.combinations["new/old"]
    fars = [point.far for point in cross.operating_points if tar_name(point.far) in names]
    # the carried-over threshold is set on one half of the classes
    pairs = max([2 / far, *(1 / each for each in fars)])
    # a result of an earlier version says so among the facts of its data
    classes = result.classes if result.classes is not None else result.data.get("classes")
    checks = []
    if (found := cross.impostor_pairs) < pairs:
        says = (
            f"The test set has {found:,} impostor pairs; the false-accept rates that are judged "
            f"need {pairs:,.0f} at least."
        )
        more = "add test classes or images"
        checks.append(_check(FEW, float(found), pairs, False, says, more))
    if isinstance(classes, int) and classes < LEAST_CLASSES:
        says = (
            f"The test set has {classes} query classes with an item in the gallery; intervals are "
            f"drawn over classes, and need {LEAST_CLASSES} at least to be believed."
        )
        least, more = float(LEAST_CLASSES), "add test classes"
        checks.append(_check("test classes", float(classes), least, False, says, more))
    return checks


def signed(change: Estimate) -> str:
    """Return a difference of shares in points, with its interval."""
    value, low, high = (100 * figure for figure in (change.value, change.low, change.high))
    return f"{value:+z.1f} points (95 % interval {low:+z.1f} to {high:+z.1f})"
