"""`mixbct extract`, `denoise`, `adapt` and `doctor`: vectors made, used and looked at."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from rich.table import Table
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
from mixbct.gallery.foreign import Columns
from mixbct.report.templates import render_page
from mixbct.schemas.bridge import Bridge, without_numbers
from mixbct.schemas.checkup import CheckupReport
from mixbct.workflows.adapt import adapt as fit_bridge
from mixbct.workflows.doctor import check_up
from mixbct.workflows.rows import open_rows, rows_of

Kind = Literal[
    "choose", "procrustes", "ridge", "ridge_gallery", "cca", "ridge_cca", "whiten_cca", "whiten"
]


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
    tell(record, said, then=("recipes", "copy", "new", "--data", "DATA", "--bank", bank))


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


def doctor(
    store: Annotated[
        str,
        Argument(
            metavar="STORE",
            help="A gallery, a feature bank, a .npy, .npz, FAISS or SQLite file, or a URL.",
        ),
    ],
    images: Path | None = Option(None, help="Of the items, known by their keys."),
    model: Path | None = Option(None, help="The new model: its rate is measured on --images."),
    contract: str | None = Option(None, metavar="NAME", help="Which model's vectors, of several."),
    preset: str | None = Option(None, help="The product that made the tables."),
    table: str | None = Option(None, help="Table or view, with its schema where needed."),
    key: str | None = Option(None, metavar="COLUMN", help="Names the item."),
    vector: str | None = Option(None, metavar="COLUMN", help="Holds the vector."),
    label: str | None = Option(None, metavar="COLUMN", help="Names the class [none]."),
    contract_column: str | None = Option(None, metavar="COLUMN", help="Names the model [none]."),
    keys: str | None = Option(None, metavar="FILE", help="Keys, one a line; or an .npz's member."),
    labels: str | None = Option(None, metavar="FILE", help="Labels likewise."),
    device: Device = "cpu",
) -> None:
    """Look at stored vectors, which are only read: damage, duplicates, two models in one column.

    It also says what the old model could do whitened, and what an upgrade would need.
    """
    columns = Columns(table, key, vector, label, contract_column)
    how = contract, columns if any(columns) else None, preset, keys, labels
    report = check_up(store, how, images, model, device, progress_bar)
    names = ("table", "key", "vector", "label", "contract-column", "preset", "keys", "labels")
    told = zip(names, (*columns, preset, keys, labels), strict=True)
    words = [word for name, value in told if value for word in (f"--{name}", value)]
    tell(report, render_page("checkup.txt.j2", report=report).rstrip(), then=_next(report, words))


def _next(report: CheckupReport, told: list[str]) -> tuple[str, ...]:
    """Return the one command to run next: faults first, then the upgrade."""
    faulty = any(each.not_finite + each.zero for each in report.found)
    if not report.gallery:
        words = (*told, "--contract", "NAME", *(["--skip-bad"] if faulty else []))
        return ("gallery", "import", "GALLERY", report.place, *words)
    if not report.found:
        return ("gallery", "enrol", report.place, "--bank", "BANK")
    if faulty:
        return ("gallery", "status", report.place, "--verify")
    return ("adapt", "--from", "NEW-BANK", "--to", "OLD-BANK", "--out", "bridge.json")
