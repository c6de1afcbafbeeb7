"""Is it worth it? What to do about an upgrade, in one sentence, from its figures alone.

The ways are tried from the cheapest to the dearest, and each must surely gain on the best before
it: a step is taken where the lower bound of the paired difference in mAP is above zero, the
difference is a point at least, and neither rank-1 nor TAR@1e-3 is surely lost. Embedding all
again almost always gains, needs every image, and can follow any of the others row by row; so it
is the answer only where nothing cheaper surely gains, and what it would add is said beside them.
"""

from mixbct.evaluation.gate import LEAST_CLASSES, signed
from mixbct.schemas.bridge import TRAINED
from mixbct.schemas.result import FREE, Choice, Estimate, Result, Worth, tar_name

MATTERS = 0.01
"""Of mAP: what is less is no reason to change a system."""
_BASE = "old/old"
_WHOLE = ("new/new", "independent/independent")
_KEPT = "no stored vector is changed, and a rollback undoes it at any time"


def worth(result: Result) -> Worth:
    """Return what to do: stay, whiten, bridge, train compatibly, re-embed, or undecided.

    A new model behind a bridge that was fitted afterwards, with no independent one beside it,
    counts as bridged, not as trained compatibly.

    Args:
        result: an evaluation of an upgrade, by this version or an earlier one.
    """
    classes = result.classes if result.classes is not None else result.data.get("classes")
    if isinstance(classes, int) and classes < LEAST_CLASSES:
        says = (
            f"Undecided: the test set has {classes} query classes, and intervals are believed from "
            f"{LEAST_CLASSES} on; test more before anything is changed."
        )
        return Worth(choice="undecided", says=says)
    ways = {name: way for name, way in _ways(result).items() if name in result.combinations}
    best = _BASE
    for name in ways:
        best = name if _better(result, name, best) else best
    whole = [name for name in _WHOLE if name in result.combinations]
    if best != _BASE:
        choice, what, cost = ways[best]
        more = ""
        if (then := _change(result, "new/new", best, "mAP")) and then.low > 0:
            more = f"; embedding all again, which can follow, would add {signed(then)}"
        says = f"{what}: {_gain(result, best)}; it costs {cost}, {_KEPT}{more}."
        return Worth(choice=choice, says=says)
    if surely := [name for name in whole if _better(result, name, _BASE)]:
        name = max(surely, key=lambda one: result.combinations[one].mean_average_precision.value)
        says = (
            f"Re-embed: nothing cheaper surely gains without losing elsewhere, but all rows "
            f"embedded again by the {name.partition('/')[0]} model do: {_gain(result, name)}; it "
            "costs an embedding of every image (`mixbct doctor` measures how long), and a rollback "
            "brings the old vectors back until `mixbct gallery prune`."
        )
        return Worth(choice="re-embed", says=says)
    changes = {name: change for name in (*ways, *whole) if (change := _change(result, name))}
    if all(change.high < MATTERS for change in changes.values()):
        most = max((change.high for change in changes.values()), default=0.0)
        limit = f"no more than {100 * most:.1f} points of mAP" if most > 0 else "nothing"
        says = (
            f"Stay: by the upper ends of their intervals, the ways that were measured "
            f"({', '.join(changes)}) gain {limit}; it costs nothing, and there is nothing to undo."
        )
        return Worth(choice="stay", says=says)
    name = max(changes, key=lambda one: changes[one].high)
    lost = [m for m in _STEADY if (c := _change(result, name, metric=m)) and c.high < 0]
    why = f"surely loses in {' and '.join(lost)}" if lost else "may as well not be worth it"
    more = "weigh one against the other" if lost else "test more classes"
    says = (
        f"Undecided: of all ways {name} may gain most, {signed(changes[name])} of mAP on "
        f"{_BASE}, but it {why}; {more} before anything is changed."
    )
    return Worth(choice="undecided", says=says)


_STEADY = ("rank-1", tar_name(1e-3))


def _ways(result: Result) -> dict[str, tuple[Choice, str, str]]:
    """Return, the cheapest first, the choice that a combination stands for, its name, its cost."""
    bridge, cost = result.bridge, result.costs.get("new")
    bridged = bridge and bridge.kind != TRAINED and "independent" not in result.models
    took = f" ({cost.seconds / 60:,.1f} minutes of it here)" if cost else ""
    fitted: tuple[Choice, str] = ("bridge", "Bridge the new model's queries to the old rows")
    return {
        f"{FREE}/old": (
            "whiten",
            "Whiten the old space, and keep the old model",
            "one fitted map and no new model",
        ),
        "chosen/old": (*fitted, f"a new model and one fitted map ({result.chosen or 'chosen'})"),
        "new/old": (*fitted, "a new model and one fitted map")
        if bridged
        else ("train", "Train compatibly", f"the training of a new model{took}"),
    }


def _gain(result: Result, name: str) -> str:
    before, after = (
        f"{100 * result.combinations[n].mean_average_precision.value:.1f} %" for n in (_BASE, name)
    )
    change = _change(result, name)
    return f"mAP goes from {before} to {after}{f', {signed(change)}' if change else ''}"


def _better(result: Result, of: str, minus: str) -> bool:
    """Return whether one surely gains on the other, as much as matters, and loses nothing."""
    gain = _change(result, of, minus)
    steady = [_change(result, of, minus, metric) for metric in _STEADY]
    kept = all(change is None or change.high >= 0 for change in steady)
    return gain is not None and gain.low > 0 and gain.value >= MATTERS and kept


def _change(result: Result, of: str, minus: str = _BASE, metric: str = "mAP") -> Estimate | None:
    """Return the paired difference, or else the widest that the two intervals allow."""
    paired = result.difference(of, minus)
    if paired and metric in paired.metrics:
        return paired.metrics[metric]
    sides = [result.combinations[n].metrics() for n in (of, minus) if n in result.combinations]
    if len(sides) < 2 or any(metric not in side for side in sides):
        return None
    ours, theirs = (side[metric] for side in sides)
    return Estimate(
        value=ours.value - theirs.value, low=ours.low - theirs.high, high=ours.high - theirs.low
    )
