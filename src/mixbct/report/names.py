"""What each combination is called, in which order it stands and which colour it keeps."""

import re
from dataclasses import dataclass
from itertools import cycle

from mixbct.schemas.result import Combination, Result

BASELINE = "old/old"
CROSS = "new/old"
SELF = "new/new"
INDEPENDENT = "independent"
"""The method, and the role, of the model that others are held against."""

MAIN_FAR = 1e-3
"""The false-accept rate that histograms, tiles and the life chart show."""

# technical name → (short name, explanation, colour class); the order is the table's
_KNOWN = {
    BASELINE: ("Today", "old queries, old gallery", "k-today"),
    "whiten/old": ("Today, whitened", "no new model: the old one, both sides mapped", "k-other3"),
    CROSS: ("After the switch", "cross-test: new queries, gallery untouched", "k-cross"),
    SELF: ("All re-embedded", "self-test: new queries, new gallery", "k-self"),
    "new+old/old": ("Both queries", "old and new query as one, gallery untouched", "k-other1"),
    "independent/old": ("Naive swap", "a model that ignored the old one, old gallery", "k-naive"),
    "procrustes/old": ("Rotated swap", "the independent model behind a fitted rotation", "k-map"),
    "ridge/old": ("Ridge swap", "the independent model behind a fitted linear map", "k-other1"),
    "chosen/old": ("Best swap", "the independent model behind a chosen bridge", "k-other2"),
    "chosen+old/old": ("Best swap, both queries", "the same and the old one's as one", "k-other3"),
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
    """
    shares = {name: enrolled_share(one) for name, one in result.combinations.items()}
    others = [name for name in shares if name not in _KNOWN]
    free = [name for name in others if shares[name] is None]
    mixed = sorted(set(others) - set(free), key=lambda name: (shares[name] or 0.0, name))
    said = {name: _KNOWN[name] for name in _KNOWN if name in shares}
    # what was chosen on training classes
    share = result.old_queries and f"{result.old_queries:g} of the new"
    for name, choice in (("chosen/old", result.chosen), ("new+old/old", share)):
        if name in said and choice:
            short, explanation, colour = said[name]
            said[name] = short, f"{explanation} ({choice})", colour
    for name, colour in zip(free, cycle(_OTHER_COLOURS), strict=False):
        one = result.combinations[name]
        said[name] = (name, f"{one.query} queries, {one.gallery} gallery", colour)
    for name, colour in zip(mixed, cycle(_MIXED_COLOURS), strict=False):
        short = f"{100 * (shares[name] or 0.0):g} % enrolled since"
        said[name] = (short, "new queries; the rest of the gallery is old", colour)
    return [Named(name, *said[name], result.combinations[name], shares[name]) for name in said]


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
