"""Options that several verbs have, each described once."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from typer import Argument, Option, Typer

from mixbct.backbones.trust import TRUSTED
from mixbct.cli.output import AS_JSON

GalleryPlace = Annotated[str, Argument(metavar="GALLERY", help="The gallery's folder, or its URL.")]
"""A string: a path would make one of a URL's two slashes."""
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
AsJson = Annotated[bool, Option("--json", help="Print the result as JSON.")]
TrustCode = Annotated[
    bool,
    Option(
        "--trust-code",
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


Verb = TypeVar("Verb", bound=Callable[..., None])


class Commands(Typer):
    """Commands that have `--json` without a word of theirs, and with a `Device` `--trust-code`."""

    def __init__(self) -> None:
        super().__init__(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

    def command(self, name: str | None = None) -> Callable[[Verb], Verb]:  # type: ignore[override]
        """Return what adds a function as a command, by its own name where none is given."""

        def add(verb: Verb) -> Verb:
            own = inspect.signature(verb).parameters.values()
            kinds: dict[str, Any] = {"as_json": AsJson}
            if Device in [each.annotation for each in own]:
                kinds = {"trust_code": TrustCode} | kinds
            form = inspect.Parameter.POSITIONAL_OR_KEYWORD
            shared = [
                inspect.Parameter(each, form, default=False, annotation=kind)
                for each, kind in kinds.items()
            ]

            @functools.wraps(verb)
            def run(**given: Any) -> None:
                AS_JSON.set(given.pop("as_json"))
                if "trust_code" in kinds:
                    TRUSTED.set(given.pop("trust_code"))
                verb(**given)

            run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
            super(Commands, self).command(name)(run)
            return verb

        return add
