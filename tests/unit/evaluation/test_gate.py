"""Each check of the gate can fail by itself, and only a passed gate writes an edge."""

import pytest
from pydantic import ValidationError

from mixbct.errors import ContractError, ResultError
from mixbct.evaluation.gate import GateSettings, edge_from, judge
from mixbct.schemas.model import Contract, Preprocessing
from mixbct.schemas.result import (
    CarriedThreshold,
    Combination,
    Curve,
    Difference,
    Estimate,
    Histogram,
    OperatingPoint,
    Result,
)

GOOD = {
    "mAP": (0.05, 0.03, 0.07),
    "rank-1": (0.02, 0.01, 0.03),
    "rank-5": (0.0, -0.01, 0.01),
    "TAR@1e-3": (0.06, 0.02, 0.1),
    "TAR@1e-4": (-0.01, -0.05, 0.03),
}


def figure(value, low=None, high=None):
    return Estimate(
        value=value, low=value if low is None else low, high=value if high is None else high
    )


def combination(name, mean_average_precision, pairs):
    query, gallery = name.split("/")
    return Combination(
        query=query,
        gallery=gallery,
        mean_average_precision=figure(mean_average_precision),
        rank1=figure(0.9),
        rank5=figure(0.95),
        operating_points=(
            OperatingPoint(
                far=1e-3, tar=figure(0.6), threshold=0.4, measured_far=1e-3, resolved=True
            ),
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
    changes=None, self_test=0.89, independent=0.9, measured_far=1.1e-3, pairs=2_000, **fields
):
    combinations = {"old/old": 0.6, "new/old": 0.65, "new/new": self_test}
    if independent is not None:
        combinations["independent/independent"] = independent
    metrics = {name: figure(*values) for name, values in (GOOD | (changes or {})).items()}
    content = {
        "title": "a test",
        "versions": {},
        "seed": 0,
        "data": {},
        "models": {role: contract(role) for role in ("old", "new")},
        "combinations": {name: combination(name, m, pairs) for name, m in combinations.items()},
        "differences": (Difference(of="new/old", minus="old/old", metrics=metrics),),
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
        ({"changes": {"TAR@1e-4": (-0.05, -0.1, -0.01)}}, "no loss in TAR@1e-4", 0),
        ({"self_test": 0.88}, "self-test", 0.885),
        ({"measured_far": 2.1e-3}, "carried-over threshold", 2e-3),
        ({"pairs": 1_999}, "impostor pairs", 2_000),
    ],
)
def test_each_check_fails_by_itself(changed, name, bound):
    outcome = judge(result(**changed))
    assert not outcome.passed
    assert failed(outcome) == [name]
    check = next(check for check in outcome.checks if not check.passed)
    assert check.bound == pytest.approx(bound)
    assert check.says.endswith(".")


def test_settings_move_the_bounds():
    worse = result(self_test=0.88, measured_far=2.1e-3)
    assert judge(worse, GateSettings(self_test_loss=0.03, far_tolerance=3)).passed
    strict = GateSettings(gains=("rank-5",), strict=())
    assert failed(judge(result(), strict)) == ["gain in rank-5"]


def test_a_sentence_holds_the_figures():
    check = judge(result()).checks[0]
    assert check.says == (
        "mAP of new/old gains on old/old: +5.0 points (95 % interval +3.0 to +7.0), and the lower "
        "bound must be above 0."
    )
    assert check.value == 0.03


def test_without_an_independent_model_the_self_test_is_no_check():
    outcome = judge(result(independent=None, self_test=0.1))
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
