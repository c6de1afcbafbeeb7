"""`mixbct extract` and `mixbct denoise`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mixbct.backbones.model import load_model
from mixbct.cli.options import AsJson, Out, Resume, SkipBad, TrustCode
from mixbct.cli.output import name_skipped, next_command, printed, progress_bar
from mixbct.data.bank import FeatureBank
from mixbct.features.denoise import denoise as denoise_bank
from mixbct.features.extract import extract as extract_bank
from mixbct.workflows.rows import open_rows


def extract(
    model: Annotated[Path, typer.Argument(help="A model folder, or a training run.")],
    data: Annotated[
        Path,
        typer.Option(help="A folder of class folders, an image array, or (for a head) a bank."),
    ],
    out: Out,
    split: Annotated[Path | None, typer.Option(help="A split folder; none: all images.")] = None,
    part: Annotated[str | None, typer.Option(help="Which part of the split [new_train].")] = None,
    dtype: Annotated[
        Literal["float16", "float32"], typer.Option(help="How features are stored.")
    ] = "float16",
    batch: Annotated[int, typer.Option(min=1, help="Images a forward pass.")] = 512,
    device: Annotated[str, typer.Option(help="Where to compute.")] = "cpu",
    resume: Resume = False,
    skip_bad: SkipBad = False,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Embed images, or for a head a bank's vectors, into a feature bank. It can be resumed.

    With --skip-bad it goes on with what a run began that met an image that cannot be read.
    """
    loaded = load_model(model, device)
    rows, skipped = open_rows(data, loaded.takes, split, part, skip_bad)
    name_skipped(skipped)
    with progress_bar("extract") as tick:
        bank = extract_bank(
            loaded, rows, out, dtype=dtype, batch=batch, resume=resume or skip_bad, progress=tick
        )
    if not printed(bank.manifest, as_json):
        manifest = bank.manifest
        typer.echo(
            f"{manifest.rows:,} features of {manifest.dim} dimensions by {manifest.contract} "
            f"in {out}"
        )
        next_command("denoise", out)


def denoise(
    bank: Annotated[Path, typer.Argument(help="A feature bank.")],
    keep: Annotated[
        float, typer.Option(help="Share of each class's features that is kept (T).")
    ] = 0.9,
    normalise_columns: Annotated[
        bool, typer.Option(help="Normalise each column first, as the published script does.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Mark the credible features of a bank: those nearest to the mean of their class."""
    opened = FeatureBank(bank)
    with progress_bar("denoise") as tick:
        record = denoise_bank(opened, keep, normalise_columns, tick)
    if not printed(record, as_json):
        typer.echo(f"{record.credible:,} of {record.rows:,} features are credible")
        next_command("train", "recipes/new.toml", "--set", f"method.bank={bank}")
