"""`mixbct adapt`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mixbct.cli.options import AsJson, Out
from mixbct.cli.output import next_command, printed, progress_bar
from mixbct.data.bank import FeatureBank
from mixbct.workflows.adapt import adapt as fit_map

Kind = Literal["procrustes", "ridge", "mlp"]


def adapt(
    kind: Annotated[Kind, typer.Argument(help="Of the map.")],
    source: Annotated[Path, typer.Option("--from", help="The new model's feature bank.")],
    target: Annotated[Path, typer.Option("--to", help="The old model's, of the same items.")],
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Fit a map from one model's space into another's on two feature banks; no labels needed.

    Items are paired by their keys. The map's file is what `eval-pairs` and `eval-ijb` take as
    --query-map.
    """
    with progress_bar(f"fit {kind}"):
        found = fit_map(kind, FeatureBank(source), FeatureBank(target), out)
    if not printed(found, as_json):
        typer.echo(
            f"{kind} from {found.source} to {found.target}, {found.source.dim} to "
            f"{found.target.dim} dimensions, fitted on {found.pairs:,} items; mean cosine there "
            f"{found.cosine:.4f}; in {out}"
        )
        models = ("--model", "NEW", "--gallery-model", "OLD")
        next_command("eval-pairs", *models, "--query-map", out, "--pairs", "PAIRS")
