"""What to do about an upgrade: each answer, and never beyond an interval."""

import pytest
from test_gate import combination, contract, figure

from mixbct.evaluation.worth import worth
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.result import CarriedThreshold, Difference, Estimate, ModelCost, Result

METRICS = ("mAP", "rank-1", "rank-5", "TAR@1e-3", "TAR@1e-4")


def change(value: float, half: float = 0.01) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half)


def result(gains: dict[str, float], half: float = 0.01, **fields: object) -> Result:
    """Return a result whose combinations gain so much on old/old, 0.5, in every metric."""
    gains = {"old/old": 0.0, "new/old": 0.0, **gains}
    lost = fields.pop("lost", {})
    differences = [
        Difference(
            of=of,
            minus=minus,
            metrics={
                m: change(
                    gains[of] - gains[minus] + (lost.get((of, m), 0) if minus == "old/old" else 0),
                    half,
                )
                for m in METRICS
            },
        )
        for of in gains
        for minus in gains
        if of != minus
    ]
    content: dict[str, object] = {
        "title": "a test",
        "versions": {},
        "seed": 0,
        "data": {},
        "classes": 100,
        "models": {role: contract(role) for role in ("old", "new")},
        "combinations": {
            name: combination(name, dict.fromkeys(METRICS, 0.5 + gain), 10_000)
            for name, gain in gains.items()
        },
        "differences": differences,
        "negative_flips": 0.01,
        "carried_threshold": CarriedThreshold(
            far=1e-3, old_threshold=0.5, far_at_old_threshold=5e-4, threshold=0.4, measured_far=1e-3
        ),
    }
    return Result(**(content | fields))


ALL = {"whiten/old": 0.0, "chosen/old": 0.0, "new/old": 0.0, "new/new": 0.0}


@pytest.mark.parametrize(
    ("gains", "choice", "says"),
    [
        # every upper end is below a point
        (dict.fromkeys(ALL, -0.02), "stay", "gain nothing"),
        ({**ALL, "whiten/old": 0.04}, "whiten", "no new model"),
        # a dearer way must surely gain on the cheaper one
        ({**ALL, "whiten/old": 0.04, "new/old": 0.045}, "whiten", "+4.0 points"),
        ({**ALL, "whiten/old": 0.04, "chosen/old": 0.07}, "bridge", "one fitted map"),
        ({**ALL, "chosen/old": 0.07, "new/old": 0.075}, "bridge", "57.0 %"),
        ({**ALL, "whiten/old": 0.04, "new/old": 0.09}, "train", "the training of a new model"),
        (
            {"whiten/old": 0.04, "new/old": 0.09, "new/new": 0.2},
            "train",
            "embedding all again, which can follow, would add +11.0 points",
        ),
        ({**ALL, "new/new": 0.2}, "re-embed", "every image"),
        (ALL, "undecided", "may as well not be worth it"),
        ({**ALL, "new/old": 0.009}, "undecided", "new/old may gain most, +0.9 points"),
    ],
)
def test_each_answer(gains: dict[str, float], choice: str, says: str) -> None:
    found = worth(result(gains))
    assert found.choice == choice
    assert says in found.says
    assert found.says.count(". ") == 0
    assert found.says.endswith(".")
    if choice in ("whiten", "bridge", "train"):
        assert "no stored vector is changed, and a rollback undoes it" in found.says
    if choice == "re-embed":
        assert "until `mixbct gallery prune`" in found.says


def test_no_answer_goes_beyond_its_interval() -> None:
    gains = {"whiten/old": 0.04, "new/old": 0.09, "new/new": 0.2}
    assert worth(result(gains, half=0.045)).choice == "train"
    assert worth(result(gains, half=0.1)).choice == "re-embed"
    assert worth(result(gains, half=0.3)).choice == "undecided"
    assert worth(result(gains, classes=29)).choice == "undecided"
    assert worth(result(gains, classes=None, data={"classes": 12})).choice == "undecided"
    assert "12 query classes" in worth(result(gains, classes=None, data={"classes": 12})).says


def test_what_gains_and_loses_is_for_a_person_to_weigh() -> None:
    found = worth(result({"new/old": 0.09}, lost={("new/old", "TAR@1e-3"): -0.2}))
    assert found.choice == "undecided"
    assert "surely loses in TAR@1e-3" in found.says


def test_costs_that_are_known_are_said_and_others_not_made_up() -> None:
    gains = {"new/old": 0.09}
    assert "minutes" not in worth(result(gains)).says
    costs = {"new": ModelCost(seconds=252.0, images=1, steps=1)}
    assert "(4.2 minutes of it here)" in worth(result(gains, costs=costs)).says


def test_a_new_model_behind_a_fitted_bridge_is_bridged() -> None:
    new, old = contract("new"), contract("old")
    side = LinearMap.of(__import__("numpy").eye(128))
    for kind, choice in (("cca", "bridge"), ("trained", "train")):
        bridge = Bridge(kind=kind, source=new, target=old, query=side)
        assert worth(result({"new/old": 0.09}, bridge=bridge)).choice == choice


def test_an_earlier_result_without_the_pairs_is_judged_by_what_its_intervals_allow() -> None:
    whole = result({"whiten/old": 0.04, "new/old": 0.09})
    base = tuple(d for d in whole.differences if d.minus == "old/old")
    fewer = whole.model_copy(update={"differences": base})
    assert worth(fewer).choice == "train"  # its combinations have no width
    wide = {
        name: one.model_copy(update={"mean_average_precision": figure(0.5 + gain, 0.4, 0.7)})
        for (name, one), gain in zip(fewer.combinations.items(), (0, 0.09, 0.04), strict=True)
    }
    assert worth(fewer.model_copy(update={"combinations": wide})).choice == "whiten"
