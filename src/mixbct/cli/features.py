"""`mixbct extract` and `mixbct denoise`."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from mixbct.backbones.model import load_model
from mixbct.cli.options import AsJson, Device, Out, Resume, SkipBad, TrustCode
from mixbct.cli.output import name_skipped, progress_bar, tell
from mixbct.data.bank import FeatureBank
from mixbct.distributed import joined
from mixbct.features.denoise import denoise as denoise_bank
from mixbct.features.extract import extract as extract_bank
from mixbct.workflows.rows import open_rows


def extract(
    model: Annotated[Path, Argument(help="A model folder, or a training run.")],
    data: Annotated[Path, Option(help="Images, or (for a head) its encoder's bank.")],
    out: Out,
    split: Path | None = Option(None, help="A split folder; none: all images."),
    part: str | None = Option(None, help="Which part of the split [new_train]."),
    dtype: Literal["float16", "float32"] = Option("float16", help="How features are stored."),
    batch: int = Option(512, min=1, help="Images a forward pass."),
    device: Device = "cpu",
    resume: Resume = False,
    skip_bad: SkipBad = False,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Embed images, or for a head a bank's vectors, into a feature bank. It can be resumed.

    With --skip-bad it goes on with what a run began that met an image that cannot be read. Several
    processes share it where torchrun starts them.
    """
    with joined(device) as world:
        loaded = load_model(model, str(world.open_device(device)))
        rows, skipped = open_rows(data, loaded.takes, split, part, skip_bad)
        name_skipped(skipped)
        on = resume or skip_bad
        with progress_bar("extract") as tick:
            bank = extract_bank(
                loaded, rows, out, dtype=dtype, batch=batch, resume=on, progress=tick, world=world
            )
    made = bank.manifest
    said = f"{made.rows:,} features of {made.dim} dimensions by {made.contract} in {out}"
    tell(made, as_json, said, then=("denoise", out))


def denoise(
    bank: Annotated[Path, Argument(help="A feature bank.")],
    keep: float = Option(0.9, help="Share of each class's features that is kept (T)."),
    normalise_columns: bool = Option(
        False, help="Normalise columns first, as the published script."
    ),
    as_json: AsJson = False,
) -> None:
    """Mark the credible features of a bank: those nearest to the mean of their class."""
    opened = FeatureBank(bank)
    with progress_bar("denoise") as tick:
        record = denoise_bank(opened, keep, normalise_columns, tick)
    said = f"{record.credible:,} of {record.rows:,} features are credible"
    then = ("train", "recipes/new.toml", "--set", f"method.bank={bank}")
    tell(record, as_json, said, then=then)
