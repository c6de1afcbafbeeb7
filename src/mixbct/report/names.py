"""What each combination is called, in which order it stands and which colour it keeps."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mixbct.errors import ResultError
from mixbct.schemas.result import Combination, Result

BASELINE = "old/old"
CROSS = "new/old"
SELF = "new/new"

MAIN_FAR = 1e-3
"""The false-accept rate that histograms, tiles and the life chart show."""

# technical name → (short name, explanation, colour class); the order is the table's
_KNOWN = {
    BASELINE: ("Today", "old queries, old gallery", "k-today"),
    CROSS: ("After the switch", "cross-test: new queries, gallery untouched", "k-cross"),
    SELF: ("All re-embedded", "self-test: new queries, new gallery", "k-self"),
    "independent/old": ("Naive swap", "a model that ignored the old one, old gallery", "k-naive"),
    "procrustes/old": ("Rotated swap", "the independent model behind a fitted rotation", "k-map"),
    "ridge/old": ("Ridge swap", "the independent model behind a fitted linear map", "k-other1"),
    "mlp/old": ("MLP swap", "the independent model behind a fitted residual MLP", "k-other2"),
    "independent/independent": (
        "Independent, all re-embedded",
        "what a new model reaches with no tie to the old one",
        "k-free",
    ),
}
_OTHER_COLOURS = ("k-other1", "k-other2", "k-other3")
_MIXED_COLOURS = ("k-mixed1", "k-mixed2", "k-mixed3")


@dataclass(frozen=True)
class Named:
    """One combination with the names and the colour that every table and figure gives it."""

    name: str
    short: str
    explanation: str
    colour: str
    data: Combination
    enrolled: float | None
    """Share of the gallery that the new model enrolled, for new queries alone."""

    @property
    def mixed(self) -> bool:
        """Whether the gallery holds vectors of both models."""
        return self.enrolled is not None and 0 < self.enrolled < 1

    @property
    def cross(self) -> bool:
        """Whether queries of another model search the old gallery as it is."""
        return self.data.gallery == "old" and self.data.query != "old"


def named_combinations(result: Result) -> list[Named]:
    """Return the combinations of a result in the order of the table.

    First those that have a name of their own, then any other, then the mixed galleries by the
    share that the new model enrolled.

    Raises:
        ResultError: old/old or new/old is missing, without which there is nothing to compare.
    """
    for name in (BASELINE, CROSS):
        if name not in result.combinations:
            raise ResultError(
                f"the result {result.title!r} has no combination {name!r} (it has "
                f"{', '.join(result.combinations) or 'none'}); evaluate the upgrade again"
            )
    known = [name for name in _KNOWN if name in result.combinations]
    shares = {name: enrolled_share(one) for name, one in result.combinations.items()}
    others = [name for name in result.combinations if name not in _KNOWN]
    mixed = sorted((share, name) for name in others if (share := shares[name]) is not None)
    free = [name for name in others if shares[name] is None]

    found = [Named(name, *_KNOWN[name], result.combinations[name], shares[name]) for name in known]
    for name, colour in zip(free, _cycle(_OTHER_COLOURS, len(free)), strict=True):
        one = result.combinations[name]
        says = f"{one.query} queries, {one.gallery} gallery"
        found.append(Named(name, name, says, colour, one, None))
    for (share, name), colour in zip(mixed, _cycle(_MIXED_COLOURS, len(mixed)), strict=True):
        short = f"{100 * share:g} % enrolled since"
        says = "new queries; the rest of the gallery is old"
        found.append(Named(name, short, says, colour, result.combinations[name], share))
    return found


def enrolled_share(combination: Combination) -> float | None:
    """Return which share (0..1) of the gallery the new model enrolled; None for other models.

    A mixed gallery states its share as a percentage, e.g. `10 % new`.
    """
    if combination.query != "new":
        return None
    if combination.gallery in ("old", "new"):
        return float(combination.gallery == "new")
    percent = re.search(r"(\d+(?:\.\d+)?)\s*%", combination.gallery)
    return float(percent[1]) / 100 if percent else None


def _cycle(colours: tuple[str, ...], count: int) -> Iterable[str]:
    return [colours[index % len(colours)] for index in range(count)]
