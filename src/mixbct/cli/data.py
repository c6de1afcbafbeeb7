"""`mixbct data`: make, look at, check and split image data."""

from pathlib import Path
from typing import Annotated

import typer

from mixbct.cli.common import (
    AsJson,
    Out,
    SkipBad,
    default_font_cache,
    name_skipped,
    next_command,
    progress_bar,
    result,
)
from mixbct.data import open_source
from mixbct.data.glyphs import build_glyphs
from mixbct.data.info import info as summarise
from mixbct.data.source import readable_rows
from mixbct.data.split import Scenario, make_split
from mixbct.errors import BadImageError

app = typer.Typer(no_args_is_help=True, help="Make, look at, check and split image data.")

Data = Annotated[Path, typer.Argument(help="A folder of class folders, or an image array.")]


@app.command()
def glyphs(
    out: Out,
    classes: Annotated[int | None, typer.Option(help="How many kanji [all 2,965].")] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of kanji.")] = 0,
    fonts: Annotated[
        Path | None, typer.Option(help="A folder of fonts [fetched from Debian].")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Where fetched fonts are kept [~/.cache/mixbct/fonts].")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Render kanji in every typeface: one class a character, one image a typeface."""
    with progress_bar("render the kanji glyphs") as tick:
        manifest = build_glyphs(
            out,
            classes=classes,
            seed=seed,
            fonts=fonts,
            cache=cache or default_font_cache(),
            progress=lambda what, done, total: tick(done, total),
        )

    def human() -> None:
        typer.echo(
            f"{manifest.images:,} images of {len(manifest.classes):,} kanji in "
            f"{len(manifest.groups)} families of typefaces, in {out}"
        )
        next_command(f"mixbct data split {out} --out {out}-split")

    result(manifest, as_json, human)


@app.command()
def info(data: Data, as_json: AsJson = False) -> None:
    """Count images, classes and groups."""
    found = summarise(open_source(data))

    def human() -> None:
        typer.echo(
            f"{found.images:,} images, {found.classes:,} classes of {found.smallest_class} to "
            f"{found.largest_class} images (median {found.median_class:g})"
        )
        if found.single_image_classes:
            typer.echo(f"{len(found.single_image_classes):,} classes have one image")
        if found.groups:
            groups = ", ".join(f"{name} ({count:,})" for name, count in found.groups.items())
            typer.echo(f"groups: {groups}")
        next_command(f"mixbct data split {data} --out SPLIT")

    result(found, as_json, human)


@app.command()
def verify(data: Data) -> None:
    """Decode every image once and name those that cannot be read."""
    source = open_source(data)
    with progress_bar("decode") as tick:
        rows, bad = readable_rows(source, progress=tick)
    if bad:
        raise BadImageError(
            f"{len(bad)} of {len(source)} images cannot be read:\n  " + "\n  ".join(bad), bad
        )
    typer.echo(f"all {len(rows):,} images can be read")


@app.command()
def split(
    data: Data,
    out: Out,
    scenario: Annotated[
        Scenario, typer.Option(help="How the old and the new training data relate.")
    ] = "extended-class",
    seed: Annotated[int, typer.Option(help="Of the order of classes and images.")] = 0,
    old_share: Annotated[float, typer.Option(help="The old model's share.")] = 0.3,
    test_classes: Annotated[
        str, typer.Option(help="How many classes to test on, or a share of all, such as 0.2.")
    ] = "0.2",
    query_share: Annotated[
        float, typer.Option(help="Share of a test class's images that are queries.")
    ] = 0.3,
    hold_out: Annotated[
        list[str] | None, typer.Option(help="A group that only queries come from.")
    ] = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Choose test classes and divide the others between the old and the new model."""
    source = open_source(data)
    bad: list[str] = []
    if skip_bad:
        with progress_bar("decode") as tick:
            _, bad = readable_rows(source, progress=tick)
        name_skipped(bad)
    manifest = make_split(
        source,
        out,
        scenario=scenario,
        seed=seed,
        old_share=old_share,
        test_classes=_number(test_classes),
        query_share=query_share,
        held_out_groups=hold_out or (),
        skipped=bad,
    )

    def human() -> None:
        typer.echo(manifest.rule)
        typer.echo(", ".join(f"{part} {rows:,}" for part, rows in manifest.parts.items()))
        next_command(f"mixbct train recipes/old.toml --set data.path={data} --set data.split={out}")

    result(manifest, as_json, human)


def _number(text: str) -> int | float:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise typer.BadParameter(f"expected a number, found {text!r}") from None
