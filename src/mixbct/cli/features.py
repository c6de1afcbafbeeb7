"""`mixbct extract` and `mixbct denoise`."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from typer import Argument, BadParameter, Option

from mixbct.backbones.model import EmbeddingModel, load_model
from mixbct.cli.options import Device, Out, Resume, SkipBad
from mixbct.cli.output import name_skipped, progress_bar, tell
from mixbct.data.bank import FeatureBank
from mixbct.data.foreign_bank import banks_beside, check_same_model
from mixbct.data.source import Source
from mixbct.data.texts import TextSource
from mixbct.distributed import joined
from mixbct.features.denoise import denoise as denoise_bank
from mixbct.features.encoder import TextEncoder
from mixbct.features.extract import extract as extract_bank
from mixbct.workflows.rows import open_rows, rows_of


def extract(
    data: Annotated[
        Path, Option(help="Images, or (for a head) its encoder's bank; or a table of texts.")
    ],
    out: Out,
    model: Annotated[Path | None, Argument(help="A model folder, or a training run.")] = None,
    encoder: str | None = Option(
        None,
        metavar="FACTORY",
        help="In a model's place, of texts: package.module:factory, which is your word that its "
        "code may run, or sentence-transformers:MODEL.",
    ),
    key: str = Option("key", metavar="COLUMN", help="Of the keys of texts."),
    text: str = Option("text", metavar="COLUMN", help="Of the texts."),
    label: str | None = Option(None, metavar="COLUMN", help="Of their labels [label, or none]."),
    contract: str | None = Option(None, help="What to call the encoder [FACTORY@VERSION]."),
    same_model: bool = Option(False, "--same-model", help="Compare with no bank of the same name."),
    split: Path | None = Option(None, help="A split folder; none: all images."),
    part: str | None = Option(None, help="Which part of the split [new_train]."),
    dtype: Literal["float16", "float32"] = Option("float16", help="How features are stored."),
    batch: int = Option(512, min=1, help="Items a forward pass."),
    device: Device = "cpu",
    resume: Resume = False,
    skip_bad: SkipBad = False,
) -> None:
    """Embed images or texts, or for a head a bank's vectors, into a feature bank. It can be
    resumed.

    With --skip-bad it goes on with what a run began that met an image that cannot be read. Several
    processes share it where torchrun starts them. Texts stand in a .csv, .tsv, .jsonl or .parquet
    file, a row a text.
    """
    if (model is None) == (encoder is None):
        raise BadParameter("name either a model, or an --encoder of texts")
    with joined(device) as world:
        place = str(world.open_device(device))
        embedder: EmbeddingModel | TextEncoder
        rows: Source
        if model is not None:
            embedder = load_model(model, place)
            rows, skipped = open_rows(data, embedder.takes, split, part, skip_bad)
        else:
            texts = TextSource(data, key, text, label, skip_bad)
            rows = rows_of(texts, split, part)[0] if split or part else texts
            skipped = texts.skipped
            embedder = TextEncoder(encoder or "", contract, place)
            first = np.arange(min(len(rows), batch))
            for other in [] if same_model else banks_beside(out, embedder.contract):
                vectors = embedder.embed(rows.read(first))
                check_same_model(vectors, rows.keys()[: len(first)], embedder.contract, other)
        name_skipped(skipped, "rows" if encoder else "images that cannot be read")
        on = resume or skip_bad
        with progress_bar("extract") as tick:
            bank = extract_bank(
                embedder, rows, out, dtype=dtype, batch=batch, resume=on, progress=tick, world=world
            )
    made = bank.manifest
    said = f"{made.rows:,} features of {made.dim} dimensions by {made.contract} in {out}"
    then = ("adapt", "--from", "NEW", "--to", out, "--out", "bridge.json")
    tell(made, said, then=("denoise", out) if model else then)


def denoise(
    bank: Annotated[Path, Argument(help="A feature bank.")],
    keep: float = Option(0.9, help="Share of each class's features that is kept (T)."),
    normalise_columns: bool = Option(
        False, help="Normalise columns first, as the published script."
    ),
) -> None:
    """Mark the credible features of a bank: those nearest to the mean of their class."""
    opened = FeatureBank(bank)
    with progress_bar("denoise") as tick:
        record = denoise_bank(opened, keep, normalise_columns, tick)
    said = f"{record.credible:,} of {record.rows:,} features are credible"
    then = ("recipes", "copy", "new", "--data", "DATA", "--bank", bank)
    tell(record, said, then=then)
