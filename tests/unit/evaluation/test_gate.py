"""Each check of the gate can fail by itself, and only a passed gate writes an edge."""

import numpy as np
import pytest
from pydantic import ValidationError

from mixbct.errors import ContractError, ResultError
from mixbct.evaluation.bootstrap import class_weights
from mixbct.evaluation.gate import LEAST_CLASSES, GateSettings, edge_from, judge, signed
from mixbct.schemas.calibration import Calibration, HeldOutCalibration
from mixbct.schemas.gate import Edge, GateOutcome
from mixbct.schemas.model import Contract, Preprocessing
from mixbct.schemas.result import (
    CarriedThreshold,
    Combination,
    Curve,
    Difference,
    Estimate,
    FlippedClass,
    Flips,
    Histogram,
    OperatingPoint,
    Result,
)

GOOD = {
    "mAP": (0.05, 0.03, 0.07),
    "rank-1": (0.02, 0.01, 0.03),
    "rank-5": (0.0, -0.01, 0.01),
    "TAR@1e-3": (0.06, 0.02, 0.1),
    "TAR@1e-4": (-0.01, -0.03, 0.01),
}


def figure(value, low=None, high=None):
    return Estimate(
        value=value, low=value if low is None else low, high=value if high is None else high
    )


def combination(name, metrics, pairs):
    query, gallery = name.split("/")
    return Combination(
        query=query,
        gallery=gallery,
        mean_average_precision=figure(metrics["mAP"]),
        rank1=figure(metrics["rank-1"]),
        rank5=figure(metrics["rank-5"]),
        operating_points=tuple(
            OperatingPoint(
                far=far, tar=figure(metrics[tar]), threshold=0.4, measured_far=far, resolved=True
            )
            for tar, far in (("TAR@1e-3", 1e-3), ("TAR@1e-4", 1e-4))
        ),
        genuine_pairs=10,
        impostor_pairs=pairs,
        roc=Curve(x=(0, 1), y=(0, 1)),
        cmc=Curve(x=(1,), y=(0.9,)),
        histogram=Histogram(edges=(0, 1), genuine=(1,), impostor=(1,)),
    )


def contract(name):
    preprocessing = Preprocessing(size=32, channels=1)
    return Contract(name=name, weights=name, preprocessing=preprocessing, dim=128)


def result(
    changes=None,
    self_test=(-0.01, -0.014, 0.0),
    independent=0.9,
    measured_far=1.1e-3,
    pairs=10_000,
    free=None,
    **fields,
):
    """Return a result that passes, with changes to it; `free`: new/old − whiten/old, by metric."""
    metrics = {name: figure(*values) for name, values in (GOOD | (changes or {})).items()}
    before = dict.fromkeys(GOOD, 0.6)
    after = {name: 0.6 + change.value for name, change in metrics.items()}
    combinations = {
        "old/old": before,
        "new/old": after,
        "new/new": before | {"mAP": (independent or 0) + self_test[0]},
    }
    differences = [Difference(of="new/old", minus="old/old", metrics=metrics)]
    if independent is not None:
        combinations["independent/independent"] = before | {"mAP": independent}
        loss = {"mAP": figure(*self_test)}
        differences.append(Difference(of="new/new", minus="independent/independent", metrics=loss))
    if free is not None:
        worth = {name: figure(*free.get(name, (0.02, 0.01, 0.03))) for name in GOOD}
        combinations["whiten/old"] = {n: after[n] - one.value for n, one in worth.items()}
        differences.append(Difference(of="new/old", minus="whiten/old", metrics=worth))
    content = {
        "title": "a test",
        "versions": {},
        "seed": 0,
        "data": {},
        "models": {role: contract(role) for role in ("old", "new")},
        "combinations": {name: combination(name, m, pairs) for name, m in combinations.items()},
        "differences": tuple(differences),
        "negative_flips": 0.01,
        "carried_threshold": CarriedThreshold(
            far=1e-3,
            old_threshold=0.5,
            far_at_old_threshold=5e-4,
            threshold=0.45,
            measured_far=measured_far,
        ),
    }
    return Result(**(content | fields))


def failed(outcome):
    return [check.name for check in outcome.checks if not check.passed]


def test_a_good_result_passes():
    outcome = judge(result())
    assert outcome.passed
    assert failed(outcome) == []
    assert [check.name for check in outcome.checks] == [
        "gain in mAP",
        "gain in rank-1",
        "gain in TAR@1e-3",
        "no loss in TAR@1e-4",
        "self-test",
        "carried-over threshold",
    ]


@pytest.mark.parametrize(
    ("changed", "name", "bound"),
    [
        ({"changes": {"mAP": (0.05, 0.0, 0.1)}}, "gain in mAP", 0),
        ({"changes": {"rank-1": (0.05, -0.01, 0.1)}}, "gain in rank-1", 0),
        ({"changes": {"TAR@1e-3": (-0.05, -0.1, -0.01)}}, "gain in TAR@1e-3", 0),
        ({"changes": {"TAR@1e-4": (-0.05, -0.1, -0.01)}}, "no loss in TAR@1e-4", -0.03),
        # not significantly worse, but the data are few
        ({"changes": {"TAR@1e-4": (-0.01, -0.05, 0.03)}}, "no loss in TAR@1e-4", -0.03),
        ({"self_test": (-0.02, -0.03, -0.01)}, "self-test", -0.015),
        ({"self_test": (0.0, -0.02, 0.02)}, "self-test", -0.015),
        ({"classes": 29}, "test classes", 30),
        ({"data": {"classes": 2}}, "test classes", 30),
        ({"measured_far": 2.1e-3}, "carried-over threshold", 2e-3),
        ({"pairs": 9_999}, "impostor pairs", 10_000),
    ],
)
def test_each_check_fails_by_itself(changed, name, bound):
    outcome = judge(result(**changed))
    assert not outcome.passed
    assert failed(outcome) == [name]
    check = next(check for check in outcome.checks if not check.passed)
    assert check.bound == pytest.approx(bound)
    assert check.says.endswith(".")
    # what to try next, for what failed alone
    assert check.remedy
    assert all(one.remedy is None for one in outcome.checks if one.passed)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((0.05, 0.0, 0.1), "add test classes or images"),
        ((0.0, -0.1, 0.1), "a higher method.ratio"),
    ],
)
def test_a_gain_that_is_unsure_and_one_that_is_not_there_have_other_remedies(change, says):
    assert says in judge(result(changes={"mAP": change})).checks[0].remedy


def test_the_old_threshold_stands_beside_the_new_one():
    (check,) = (c for c in judge(result()).checks if c.name == "carried-over threshold")
    assert "At the threshold 0.4500 (the old system's is 0.5000)" in check.says


@pytest.mark.parametrize(
    ("standings", "says"),
    [
        ({}, "Whether a model saw the test classes in training was not looked at."),
        (
            {"old": "apart", "new": "apart"},
            "No test class has the name of one that the old and the new model was trained on.",
        ),
        ({"old": "unknown", "new": "head"}, "as a head; what the encoder below it saw"),
        ({"old": "unknown", "new": "head"}, "; what the old model was trained on cannot be known"),
        ({"old": "apart", "new": "declared"}, "and were declared to be others."),
    ],
)
def test_the_outcome_says_what_is_known_of_the_training(standings, says):
    assert says in judge(result(trained_apart=standings)).training


def test_a_result_that_contradicts_itself_is_refused():
    good = result()
    wrong = good.combinations["new/old"].model_copy(update={"rank1": figure(0.9)})
    cases = [
        {"combinations": good.combinations | {"new/old": wrong}},
        {"differences": (*good.differences, Difference(
            of="lens/old", minus="old/old", metrics={"mAP": figure(0.1)}))},
        {"differences": (Difference(
            of="new/old", minus="old/old",
            metrics={"TAR@1e-9": figure(0.1), **good.differences[0].metrics}),)},
    ]  # fmt: skip
    for case in cases:
        with pytest.raises(ResultError, match="contradicts itself"):
            judge(good.model_copy(update=case))


@pytest.mark.parametrize(
    "refused",
    [
        lambda: figure(0.5, 0.6, 0.7),
        lambda: result(combinations={"old/old": result().combinations["old/old"]}),
        lambda: result(combinations={"new/old": result().combinations["new/old"]}),
        lambda: figure(0.5, 0.6, 0.4),
        lambda: figure(float("nan")),
        lambda: figure(0.5, 0.4, float("inf")),
        lambda: Curve(x=(0, 1), y=(0,)),
        lambda: Histogram(edges=(0, 1), genuine=(1, 1), impostor=(1,)),
        lambda: Histogram(edges=(0, 0), genuine=(1,), impostor=(1,)),
        lambda: Difference(of="a/b", minus="b/b", metrics={"mAP": figure(1.5)}),
        lambda: combination("new/old", dict.fromkeys(GOOD, 1.5), 10),
        lambda: result(measured_far=1.5),
        lambda: result(measured_far=float("nan")),
        lambda: result(negative_flips=-0.1),
        lambda: GateSettings(self_test_loss=-1),
        lambda: GateSettings(far_tolerance=float("nan")),
        lambda: GateOutcome(passed=True, checks=judge(result(pairs=1)).checks, result_digest="a"),
    ],
)
def test_figures_that_cannot_be_are_refused(refused):
    with pytest.raises(ValidationError):
        refused()


@pytest.mark.parametrize("far", [0, 1, -1e-3, 1e-300, 2, float("inf")])
def test_a_false_accept_rate_lies_between_0_and_1(far):
    carried = result().carried_threshold.model_dump()
    with pytest.raises(ValidationError):
        CarriedThreshold(**(carried | {"far": far}))


def test_settings_move_the_bounds():
    worse = result(
        {"TAR@1e-4": (0.0, -0.05, 0.05)}, self_test=(-0.02, -0.03, 0.0), measured_far=2.1e-3
    )
    lenient = GateSettings(self_test_loss=0.03, far_tolerance=3, margin=0.05)
    assert judge(worse, lenient).passed
    for name in ("self_test_loss", "far_tolerance", "margin"):
        tight = lenient.model_copy(update={name: GateSettings.model_fields[name].default})
        assert len(failed(judge(worse, tight))) == 1
    strict = GateSettings(gains=("rank-5",), strict=())
    assert failed(judge(result(), strict)) == ["gain in rank-5"]


def test_a_sentence_holds_the_figures():
    check = judge(result()).checks[0]
    assert check.says == (
        "mAP of new/old gains on old/old: +5.0 points (95 % interval +3.0 to +7.0), and the lower "
        "bound must be above 0."
    )
    assert check.value == 0.03


def ceiling(check):
    return "at its ceiling" in check.says


@pytest.mark.parametrize(
    ("interval", "change", "passes"),
    [
        # 99.8 → 100 %, 100 → 100 %, and what is as good as that
        ((0.998, 1.0), (0.002, 0.0, 0.006), True),
        ((1.0, 1.0), (0.0, 0.0, 0.0), True),
        ((0.998, 1.0), (-0.002, -0.006, 0.002), True),
        # a loss is one there, too, and few data prove nothing
        ((1.0, 1.0), (-0.04, -0.06, -0.02), False),
        ((0.95, 1.0), (0.0, -0.05, 0.05), False),
        # where there is room, it must be used
        ((0.98, 0.99), (0.0, 0.0, 0.0), False),
        ((0.98, 0.999), (0.002, -0.001, 0.005), False),
    ],
)
def test_a_figure_at_its_ceiling_must_not_gain_but_not_lose_either(interval, change, passes):
    found = result({"rank-1": change})
    value, high = interval
    old, new = (
        found.combinations[name].model_copy(update={"rank1": figure(reached, reached, top)})
        for name, reached, top in (
            ("old/old", value, high),
            ("new/old", value + change[0], max(high, value + change[0])),
        )
    )
    content = {"combinations": found.combinations | {"old/old": old, "new/old": new}}
    outcome = judge(found.model_copy(update=content))
    assert failed(outcome) == ([] if passes else ["gain in rank-1"])
    assert ceiling(outcome.checks[1]) is (high == 1)
    assert not any(ceiling(check) for check in (outcome.checks[0], *outcome.checks[2:]))


def test_what_the_old_model_can_do_alone_stands_beside_and_decides_nothing():
    assert judge(result()).beside == ()
    worth = judge(result(free={}))
    assert [check.name for check in worth.beside] == [
        "gain in mAP",
        "gain in rank-1",
        "gain in TAR@1e-3",
        "no loss in TAR@1e-4",
    ]
    assert all(check.passed and "whiten/old" in check.says for check in worth.beside)
    level = judge(result(free={"rank-1": (0.0, -0.01, 0.01)}))
    assert level.passed
    assert [check.passed for check in level.beside] == [True, False, True, True]


def test_against_the_best_a_new_model_must_be_worth_more_than_the_free_gain():
    best = GateSettings(against="best")
    assert judge(result(free={}), best).passed
    level = result(free={"rank-1": (0.0, -0.01, 0.01)})
    outcome = judge(level, best)
    assert failed(outcome) == ["gain in rank-1"]
    assert outcome.beside == ()
    assert "on whiten/old" in outcome.checks[1].says
    # where whitening harms, what is deployed is the better
    harmed = judge(result(free={"mAP": (0.06, 0.05, 0.07)}), best)
    assert "on old/old" in harmed.checks[0].says
    assert harmed.checks[0].value == 0.03
    with pytest.raises(ResultError, match=r"of new/old and whiten/old; evaluate it again"):
        judge(result(), best)
    with pytest.raises(ResultError, match=r"whiten/old \(too few items\); evaluate"):
        judge(result(left_out={"whiten/old": "too few items"}), best)


def test_enough_classes_are_no_check():
    for known in ({"classes": 30}, {"data": {"classes": 30}}, {"data": {"classes": "?"}}, {}):
        assert judge(result(**known)).passed
    few = judge(result(classes=8, data={"classes": 40}))
    assert failed(few) == ["test classes"]
    assert "has 8 query classes" in few.checks[-1].says
    assert "need 30 at least" in few.checks[-1].says


def false_passes(classes: int, trials: int = 20_000) -> float:
    """Return how often a lower bound is above zero, for two models that are equal.

    A class has a difference of its own, and its items theirs around it; classes differ in size.
    """
    rng = np.random.default_rng(classes)
    drawn = class_weights(classes, 1000, seed=0)
    passed = 0
    for _ in range(trials // 2000):
        items = rng.integers(1, 9, (classes, 2000))
        noise = rng.standard_normal((2, classes, 2000))
        differences = noise[0] + noise[1] / np.sqrt(items)
        replicates = (drawn @ (differences * items)) / (drawn @ items)
        passed += (np.percentile(replicates, 2.5, axis=0) > 0).sum()
    return float(passed / trials)


def test_the_floor_of_classes_holds_and_four_would_not():
    assert false_passes(4) > 0.08
    assert false_passes(LEAST_CLASSES) < 0.036


def test_without_an_independent_model_the_self_test_is_no_check():
    outcome = judge(result(independent=None, self_test=(0.1, 0.0, 0.2)))
    assert outcome.passed
    assert "self-test" not in [check.name for check in outcome.checks]


def test_an_unknown_metric_is_named_with_what_is_there():
    with pytest.raises(ResultError, match=r"'TAR@1e-6'.* mAP, rank-1, rank-5, TAR@1e-3, TAR@1e-4"):
        judge(result(), GateSettings(gains=("TAR@1e-6",)))


def test_a_result_without_the_difference_is_refused():
    with pytest.raises(ResultError, match="no paired difference"):
        judge(result(differences=()))


def test_settings_refuse_a_gate_that_asks_for_nothing():
    with pytest.raises(ValidationError):
        GateSettings(gains=())


def test_a_passed_gate_writes_the_edge():
    passed = result()
    edge = edge_from(passed, judge(passed))
    assert edge.from_contract == contract("new")
    assert edge.to_contract == contract("old")
    assert edge.result_digest == passed.digest()
    assert (edge.threshold, edge.far) == (0.45, 1e-3)


def test_a_failed_gate_writes_none():
    bad = result(measured_far=1.0)
    with pytest.raises(ContractError, match="carried-over threshold"):
        edge_from(bad, judge(bad))


def test_an_outcome_of_another_result_writes_none():
    with pytest.raises(ResultError, match="belongs to result"):
        edge_from(result(), judge(result(seed=1)))


def test_a_result_without_contracts_writes_none():
    bare = result(models={"old": contract("old")})
    with pytest.raises(ResultError, match="the new model; it has old"):
        edge_from(bare, judge(bare))


def halves(low, high):
    """Return a calibration that falls from every impostor at `low` to one in 10,000 at `high`."""
    one = Calibration(pairs=10**6, classes=50, scores=(low, high), accepted=(10**6, 100))
    return HeldOutCalibration(set_on=one, unseen=one)


CALIBRATIONS = {
    "old/old": halves(-0.8, 0.8),
    "new/old": halves(-0.2, 0.6),
    "new/new": halves(0.0, 0.9),
    "new+old/old": halves(-0.6, 0.7),
}


def test_every_rate_that_is_asked_for_has_its_thresholds():
    settings = GateSettings(fars=(1e-2, 1e-3))
    found = result(calibrations=CALIBRATIONS, pairs=10**6)
    outcome = judge(found, settings)
    assert outcome.passed
    pairs = ["new/old", "new/new", "new+old/old"]
    assert [(one.far, one.pair) for one in outcome.thresholds] == [
        (far, pair) for far in (1e-2, 1e-3) for pair in pairs
    ]
    names = [check.name for check in outcome.checks if "threshold" in check.name]
    assert names == ["carried-over threshold at 0.01", "carried-over threshold"]
    first = outcome.thresholds[0]
    assert (first.old_threshold, first.threshold) == pytest.approx((0.0, 0.2))
    # what is left as it was: from 0.0 on, one of ten
    assert first.far_at_old_threshold == pytest.approx(0.1, rel=1e-3)
    assert outcome.thresholds[3].old_threshold == 0.5  # that of all classes, where it is known
    assert not first.coarse
    edge = edge_from(found, outcome)
    assert (edge.far, edge.threshold) == (1e-2, first.threshold)
    assert edge.calibrations == {name: one.set_on for name, one in CALIBRATIONS.items()}
    assert Edge.model_validate_json(edge.to_json()) == edge
    assert judge(found).thresholds[0].far == 1e-3


def test_a_rate_that_does_not_hold_on_other_classes_fails():
    loose = halves(-0.2, 0.6).model_copy(update={"unseen": halves(-0.2, 0.9).unseen})
    changed = result(calibrations=CALIBRATIONS | {"new/old": loose}, pairs=10**6)
    outcome = judge(changed, GateSettings(fars=(1e-3, 1e-2)))
    assert failed(outcome) == ["carried-over threshold", "carried-over threshold at 0.01"]
    assert "With the old system's threshold left as it is" in outcome.checks[-1].says


def test_rates_need_pairs_and_a_calibration():
    with pytest.raises(ResultError, match=r"no calibration to read .* 0\.0001 from; evaluate"):
        judge(result(), GateSettings(fars=(1e-4,)))
    few = judge(result(calibrations=CALIBRATIONS), GateSettings(fars=(1e-3, 1e-4)))
    assert failed(few) == ["impostor pairs"]
    assert "need 20,000 at least" in few.checks[-1].says
    plain = judge(result())
    assert plain.thresholds == ()
    assert "thresholds" not in plain.to_json()
    assert "calibrations" not in edge_from(result(), plain).to_json()


def flips(value, low, high):
    worst = (FlippedClass(name="Ada", queries=9, lost=3, gained=1),)
    return Flips(negative=figure(value, low, high), positive=figure(0.05), classes=1, worst=worst)


@pytest.mark.parametrize(
    ("found", "limit", "passes"),
    [
        ((0.01, 0.005, 0.015), 0.02, True),
        ((0.01, 0.005, 0.02), 0.02, True),
        # not for sure
        ((0.01, 0.005, 0.021), 0.02, False),
        ((0.03, 0.025, 0.04), 0.02, False),
        ((0.0, 0.0, 0.0), 0.0, True),
        ((0.9, 0.8, 1.0), None, True),
    ],
)
def test_a_limit_of_negative_flips(found, limit, passes):
    outcome = judge(result(flips=flips(*found)), GateSettings(max_flips=limit))
    assert outcome.passed is passes
    assert [check.name for check in outcome.checks].count("negative flips") == (limit is not None)
    if not passes:
        (check,) = [check for check in outcome.checks if not check.passed]
        assert (check.value, check.bound) == (found[2], limit)
        assert "--old-model" in check.remedy
        assert "in 1 classes" in check.says


def test_a_result_of_before_flips_had_intervals():
    earlier = result()
    assert Result.model_validate_json(earlier.to_json()).flips is None
    assert "flips" not in earlier.to_json().replace("negative_flips", "")
    assert judge(earlier).passed
    with pytest.raises(ResultError, match="evaluate again"):
        judge(earlier, GateSettings(max_flips=0.5))
    with pytest.raises(ValidationError):
        GateSettings(max_flips=1.5)


def test_no_difference_has_no_minus() -> None:
    change = Estimate(value=-0.0001, low=-0.0004, high=0.0004)
    assert signed(change) == "+0.0 points (95 % interval +0.0 to +0.0)"
