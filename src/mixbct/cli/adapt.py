"""`mixbct adapt`."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from mixbct.cli.options import AsJson, Out, TrustCode
from mixbct.cli.output import next_command, progress_bar
from mixbct.schemas.bridge import Bridge, without_numbers
from mixbct.workflows.adapt import adapt as fit_bridge

Kind = Literal[
    "choose", "procrustes", "ridge", "ridge_gallery", "cca", "ridge_cca", "whiten_cca", "whiten"
]


def adapt(
    source: Annotated[
        Path, typer.Option("--from", help="The new model, or its feature bank: whose queries.")
    ],
    target: Annotated[
        Path, typer.Option("--to", help="The old model, or its bank: whose vectors are stored.")
    ],
    out: Out,
    kind: Annotated[Kind, typer.Argument(help="Of the bridge.")] = "choose",
    data: Annotated[
        Path | None, typer.Option(help="Images that both embed; not needed for two banks.")
    ] = None,
    split: Annotated[Path | None, typer.Option(help="Only a part of this split.")] = None,
    part: Annotated[str | None, typer.Option(help="That part [new_train].")] = None,
    shrinkage: Annotated[
        float | None, typer.Option(help="Of cca [.1], the others with cca and whiten [.3].")
    ] = None,
    model_out: Annotated[
        Path | None,
        typer.Option(help="Also write a copy of the new model's folder that has the bridge."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to embed.")] = "cpu",
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Fit a bridge from a new model's queries to an old model's stored vectors; no training.

    Without a kind, the best is chosen by cross-validation: identity (compare as they are), ridge,
    cca, both side by side (ridge_cca), cca with the whitened old space (whiten_cca) or whiten.
    Labels help, and are not needed. Stored vectors are never changed. `eval`, `eval-pairs`,
    `eval-ijb` and `generations` take the file as --bridge, and the gate puts it on the edge.
    """
    found = fit_bridge(
        source,
        target,
        out,
        kind=kind,
        data=data,
        split=split,
        part=part,
        shrinkage=shrinkage,
        model_out=model_out,
        device=device,
        stage=progress_bar,
    )
    if as_json:
        typer.echo(without_numbers(found))
        return
    _print(found, out)
    models = ("--old", target, "--new", model_out or source)
    bridge = () if model_out else ("--bridge", out)
    next_command("eval", *models, *bridge, "--data", data or "DATA", "--split", split or "SPLIT")


def _print(found: Bridge, out: Path) -> None:
    assert found.fit is not None, "what was just fitted"
    if found.fit.candidates:
        table = Table("kind", "shrinkage", "mAP", "TAR@1e-3")
        for each in found.fit.candidates:
            table.add_row(
                each.kind,
                "" if each.shrinkage is None else f"{each.shrinkage:g}",
                f"{each.mean_average_precision:.1%}",
                f"{each.true_accept_rate:.1%}",
            )
        Console().print(table)
        judged = "classes" if found.fit.labelled else "pairs of like items (no labels tell classes)"
        typer.echo(f"chosen: {found.kind}, by these figures on {judged} left out of the fit")
    typer.echo(
        f"queries are those of {found.source}, {found.source.dim} dimensions (--from); stored are "
        f"those of {found.target}, {found.target.dim} dimensions (--to). {found}, fitted on "
        f"{found.fit.items:,} items; in {out}"
    )
