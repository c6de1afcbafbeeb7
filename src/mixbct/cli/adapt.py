"""`mixbct adapt`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from rich.table import Table
from typer import Argument, Option

from mixbct.cli.options import Device, Out
from mixbct.cli.output import progress_bar, tell
from mixbct.schemas.bridge import Bridge, without_numbers
from mixbct.workflows.adapt import adapt as fit_bridge

Kind = Literal[
    "choose", "procrustes", "ridge", "ridge_gallery", "cca", "ridge_cca", "whiten_cca", "whiten"
]


def adapt(
    source: Annotated[Path, Option("--from", help="The new model, or its bank: queries.")],
    target: Annotated[Path, Option("--to", help="The old model, or its bank: what is stored.")],
    out: Out,
    kind: Kind = Argument("choose", help="Of the bridge."),
    data: Path | None = Option(None, help="Images that both embed; not needed for two banks."),
    split: Path | None = Option(None, help="Only a part of this split."),
    part: str | None = Option(None, help="That part [new_train]."),
    shrinkage: float | None = Option(None, help="Of cca [.1], others with cca and whiten [.3]."),
    model_out: Path | None = Option(
        None, help="Also write a copy of the new model's folder that has the bridge."
    ),
    device: Device = "cpu",
) -> None:
    """Fit a bridge from a new model's queries to an old model's stored vectors; no training.

    Without a kind, the best is chosen by cross-validation: identity (compare as they are), ridge,
    cca, both side by side (ridge_cca), cca with the whitened old space (whiten_cca) or whiten.
    Labels help, and are not needed. Stored vectors are never changed. `eval`, `eval-pairs`,
    `eval-ijb` and `generations` take the file as --bridge, and the gate puts it on the edge.
    """
    items = data, split, part
    found = fit_bridge(source, target, out, kind, shrinkage, items, model_out, device, progress_bar)
    bridge = () if model_out else ("--bridge", out)
    models = ("--old", target, "--new", model_out or source, *bridge)
    then = ("eval", *models, *(("--data", data) if data else ()), "--split", split or "SPLIT")
    if data is None and split is None:
        then = ("eval", "--old", "OLD-TEST-BANK", "--new", "NEW-TEST-BANK", *bridge)
    tell(without_numbers(found), *_lines(found, out), then=then)


def _lines(found: Bridge, out: Path) -> Iterator[str | Table]:
    assert found.fit is not None, "what was just fitted"
    if found.fit.candidates:
        table = Table("kind", "shrinkage", "mAP", "TAR@1e-3")
        for each in found.fit.candidates:
            shrinkage = "" if each.shrinkage is None else f"{each.shrinkage:g}"
            figures = (each.mean_average_precision, each.true_accept_rate)
            table.add_row(each.kind, shrinkage, *(f"{figure:.1%}" for figure in figures))
        yield table
        judged = "classes" if found.fit.labelled else "pairs of like items (no labels tell classes)"
        yield f"chosen: {found.kind}, by these figures on {judged} left out of the fit"
    yield (
        f"queries are those of {found.source}, {found.source.dim} dimensions (--from); stored are "
        f"those of {found.target}, {found.target.dim} dimensions (--to). {found}, fitted on "
        f"{found.fit.items:,} items; in {out}"
    )
