"""`mixbct data`: make, look at, check and split images and banks of vectors."""

import json
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from mixbct.cli.options import Commands, Fonts, Out, SkipBad
from mixbct.cli.output import name_skipped, progress_bar, tell
from mixbct.data import foreign_bank, open_source
from mixbct.data.bank import FeatureBank
from mixbct.data.convert import convert as convert_source
from mixbct.data.folder import FolderSource
from mixbct.data.glyphs import build_glyphs
from mixbct.data.ijb_layout import IMPOSTORS, TEMPLATE_IMAGES, lay_out
from mixbct.data.info import info as summarise
from mixbct.data.records import RecordSource
from mixbct.data.source import EncodedSource, left_out
from mixbct.data.split import Order, Scenario, make_split
from mixbct.errors import BadImageError
from mixbct.schemas.model import Preprocessing
from mixbct.workflows.rows import look_at_all, unreadable

app = Commands()

Data = Annotated[
    Path, Argument(help="Class folders, an image array, a folder with a .rec file, or a bank.")
]


@app.command()
def glyphs(
    out: Out,
    classes: int | None = Option(None, help="How many kanji [all 2,965]."),
    seed: int = Option(0, help="Of the choice of kanji."),
    fonts: Fonts = None,
) -> None:
    """Render kanji in every typeface: one class a character, one image a typeface."""
    with progress_bar("render the kanji glyphs") as tick:
        manifest = build_glyphs(out, classes, seed, fonts, tick)
    drawn = f"{manifest.images:,} images of {len(manifest.classes):,} kanji"
    said = f"{drawn} in {len(manifest.groups)} families of typefaces, in {out}"
    tell(manifest, said, then=("data", "split", out, "--out", f"{out}-split"))


@app.command()
def bank(
    features: Annotated[Path, Option(help="A .npy file, one vector a row.")],
    keys: Annotated[Path, Option(help="A name of each row: lines of text, or .npy.")],
    contract: Annotated[
        str,
        Option(
            help="What to call the model that made them. The name is its identity: vectors of one "
            "name are compared without question, so it changes whenever the model does."
        ),
    ],
    out: Out,
    labels: Path | None = Option(
        None, help="The class of each row: lines of text, or .npy [`adapt` needs none]."
    ),
    dtype: Literal["float16", "float32"] = Option("float32", help="How features are stored."),
    like: Path | None = Option(None, help="A bank of it to compare with [those beside --out]."),
    same_model: bool = Option(False, "--same-model", help="Compare with no bank of the same name."),
) -> None:
    """Make a feature bank of vectors that came from elsewhere.

    Banks with the same keys and labels, in the same order, are of the same items, row by row.
    """
    vectors = foreign_bank.read_features(features)
    others: list[FeatureBank] = []
    if not same_model:
        declared = foreign_bank.declared_contract(contract, vectors.shape[1])
        others = [FeatureBank(like)] if like else foreign_bank.banks_beside(out, declared)
    classes = foreign_bank.read_names(labels, "labels") if labels else None
    names = foreign_bank.read_names(keys, "keys")
    made = foreign_bank.bank_of_vectors(
        vectors, classes, names, contract, out, dtype, others
    ).manifest
    bridged = ("adapt", "--from", "NEW", "--to", out, "--out", "bridge.json")
    what = f"{made.rows:,} features of {made.dim} dimensions, {len(made.classes) or 'no'} classes"
    said = f"{what}, by {made.contract}, in {out}"
    tell(made, said, then=("denoise", out) if labels else bridged)


@app.command()
def info(data: Data) -> None:
    """Count images, classes and groups."""
    source = open_source(data)
    found = summarise(source)
    what = "image" if found.mean_norm is None else "vector"
    classes = (
        f"{found.classes:,} classes of {found.smallest_class} to {found.largest_class} {what}s "
        f"(median {found.median_class:g})"
    )
    said = [f"{found.images:,} {what}s, {classes if found.classes else 'without labels'}"]
    if found.mean_norm is not None:
        said.append(
            f"norm of the mean of the normalised vectors {found.mean_norm:.2f} (0: they lie around "
            "the origin; near 1: in a narrow cone)"
        )
    if found.single_image_classes:
        said.append(f"{len(found.single_image_classes):,} classes have one image")
    if found.groups:
        said.append(f"groups: {', '.join(f'{name} ({n:,})' for name, n in found.groups.items())}")
    if isinstance(source, EncodedSource):
        said.append("no image was decoded: `data verify` and `data split` look at each")
    tell(found, *said, then=("data", "split", data, "--out", "SPLIT"))


@app.command()
def convert(
    data: Data,
    out: Annotated[Path, Argument(metavar="OUT", help="The folder to write.")],
    skip_bad: SkipBad = False,
) -> None:
    """Turn a record file into class folders, or any other images into a record file.

    JPEG and PNG bytes are copied as they are; what is neither is kept without loss, as PNG.
    """
    source = open_source(data, skip_bad=skip_bad)
    with progress_bar("convert") as tick:
        done = convert_source(source, out, skip_bad=skip_bad, progress=tick)
    name_skipped([*left_out(source), *done.skipped])
    said = f"{done.images:,} images of {done.classes:,} classes, in {out}"
    tell(done, said, then=("data", "info", out))


@app.command()
def verify(
    data: Data,
    save_index: bool = Option(
        False, "--save-index", help="Write the index that a .rec file lacks."
    ),
) -> None:
    """Decode every image once and name those that cannot be read; hold arrays to their digests."""
    source = open_source(data, skip_bad=True)
    if isinstance(source, FeatureBank):
        with progress_bar("read") as tick:
            held = source.verify(tick)
        what = "are as they were written" if held else "can be read (it has no digests yet)"
        said = f"vectors {what}"
    else:
        said = "images can be read"
        if save_index and isinstance(source, RecordSource):
            source.save_index()
        bad = [*left_out(source), *unreadable(source, progress_bar)]
        if bad:
            count = len(left_out(source)) + len(source)
            lines = "\n  ".join(bad)
            raise BadImageError(f"{len(bad)} of {count} images cannot be read:\n  {lines}", bad)
    counted = json.dumps({"items": len(source), "said": said})
    tell(counted, f"all {len(source):,} {said}", then=("data", "info", data))


@app.command()
def split(
    data: Data,
    out: Out,
    scenario: Scenario = Option("extended-class", help="How old and new training data relate."),
    order: Order = Option("seeded", help="Of classes and images; `record` is the published one."),
    seed: int = Option(0, help="Of the seeded order."),
    old_share: float = Option(0.3, help="The old model's share."),
    test_classes: float = Option(0.2, min=0, help="Classes to test on (0: none), or their share."),
    validation_classes: float = Option(0, min=0, help="The same, to choose settings on first."),
    query_share: float = Option(0.3, help="Share of a test class's images that are queries."),
    hold_out: list[str] | None = Option(None, help="A group that only queries come from."),
    skip_bad: SkipBad = False,
    unchecked: bool = Option(False, "--unchecked", help="Do not look at every image first."),
) -> None:
    """Choose test classes and divide the others between the old and the new model.

    Every image is decoded first. What --skip-bad leaves out here stays out of all that follows.
    """
    source = open_source(data, skip_bad=skip_bad)
    looked = skip_bad or not unchecked
    bad = look_at_all(source, skip_bad, progress_bar) if looked else []
    name_skipped([*left_out(source), *bad])
    manifest = make_split(
        source,
        out,
        scenario=scenario,
        order=order,
        seed=seed,
        old_share=old_share,
        test_classes=test_classes,
        validation_classes=validation_classes,
        query_share=query_share,
        held_out_groups=hold_out or (),
        skipped=bad,
    )
    said = [manifest.rule, ", ".join(f"{part} {n:,}" for part, n in manifest.parts.items())]
    if not looked:
        said.insert(1, "no image was looked at: `mixbct data verify` finds what cannot be read")
    tell(manifest, *said, then=("recipes", "copy", "old", "--data", data, "--split", out))


@app.command()
def ijb_layout(
    source: Annotated[Path, Argument(help="A folder of class folders of aligned faces.")],
    out: Annotated[Path, Argument(help="The folder to write.")],
    seed: int = Option(0, help="Of galleries, templates and pairs."),
    template_images: int = Option(TEMPLATE_IMAGES, min=1, help="Most images of a template."),
    impostors: int = Option(IMPOSTORS, min=1, help="Impostor pairs of each probe."),
) -> None:
    """Lay out a labelled face folder like IJB-C: templates, two galleries, probes, pairs."""
    # the images are copied as they are; no preprocessing is used
    faces = FolderSource(source, Preprocessing(size=112, channels=3))
    settings = {"seed": seed, "template_images": template_images, "impostors": impostors}
    with progress_bar("copy the images") as tick:
        found = lay_out(faces, out, **settings, progress=tick)
    first, second = found.galleries
    said = (
        f"{found.images:,} images of {found.subjects:,} subjects: galleries of {first:,} and "
        f"{second:,} templates, {found.probes:,} probes, {found.genuine_pairs:,} genuine and "
        f"{found.impostor_pairs:,} impostor pairs, in {out}"
    )
    tell(found, said, then=("eval-ijb", "--model", "MODEL", "--data", out))
