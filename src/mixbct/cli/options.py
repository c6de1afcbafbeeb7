"""Options that several verbs have, each described once."""

from pathlib import Path
from typing import Annotated

from typer import Option

from mixbct.backbones.trust import TRUSTED

AsJson = Annotated[bool, Option("--json", help="Print the result as JSON.")]
Resume = Annotated[bool, Option("--resume", help="Go on with what an earlier run left.")]
Fonts = Annotated[
    Path | None,
    Option(help="A folder of fonts for the glyphs [fetch Debian's, kept in ~/.cache/mixbct]."),
]
Device = Annotated[str, Option(help="Where to embed, and to compare.")]
Out = Annotated[Path, Option("--out", help="Where to write.")]
SkipBad = Annotated[
    bool, Option("--skip-bad", help="Leave out and name images that cannot be read.")
]
Seed = Annotated[int, Option(min=0, max=2**63 - 1, help="Of the bootstrap and mixed galleries.")]
Replicates = Annotated[int, Option(min=100, max=100_000, help="Bootstrap replicates.")]
OtherClasses = Annotated[
    bool,
    Option("--other-classes", help="Equal class names mean other classes than in the training."),
]


def _trust(value: bool) -> bool:
    TRUSTED.set(value)
    return value


TrustCode = Annotated[
    bool,
    Option(
        "--trust-code",
        callback=_trust,
        help="Run the code that a model folder names for its backbone (package.module:f).",
    ),
]
Overrides = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting of the recipe; KEY= takes it out. Another name (method.name=l2) "
        "takes out the settings that mean nothing to it.",
    ),
]
