"""`mixbct eval-pairs`, `mixbct eval-ijb` and `mixbct data ijb-layout`: face protocols."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from rich.table import Table
from typer import Argument, Option

from mixbct.backbones.model import load_model
from mixbct.cli.options import Device, SkipBad
from mixbct.cli.output import name_skipped, progress_bar, tell
from mixbct.data.folder import FolderSource
from mixbct.data.ijb_layout import IMPOSTORS, TEMPLATE_IMAGES, lay_out
from mixbct.files import write_atomically
from mixbct.schemas.model import Preprocessing
from mixbct.schemas.protocols import ProtocolResult
from mixbct.schemas.result import tar_name
from mixbct.workflows.protocols import Sides, evaluate_ijb, evaluate_pairs

Model = Annotated[Path, Option(help="The model's folder or run; in a cross-test the new one.")]
GalleryModel = Annotated[Path | None, Option(help="The gallery's model in a cross-test: the old.")]
BridgeFile = Annotated[
    Path | None, Option(help="A bridge from the model to the gallery model, as `adapt` writes it.")
]
Flip = Annotated[bool, Option("--flip", help="Sum features with the flipped image's.")]
ResultOut = Annotated[Path | None, Option("--out", help="Also write the result there.")]
_CROSS_TEST = ("--model", "NEW", "--gallery-model", "OLD")


def eval_pairs(
    model: Model,
    pairs: Annotated[Path, Option(help="A .bin set, or a list such as LFW's pairs.txt.")],
    data: Path | None = Option(None, help="The folder of images that a list of pairs names."),
    gallery_model: GalleryModel = None,
    bridge: BridgeFile = None,
    flip: Flip = False,
    out: ResultOut = None,
    device: Device = "cpu",
) -> None:
    """Verify pairs of images: accuracy over folds, TAR at FAR; self-test or cross-test."""
    sides = _sides(model, gallery_model, bridge, flip, device)
    found = evaluate_pairs(pairs, sides, data)
    head = (
        f"accuracy {found.accuracy:.4f} ± {found.accuracy_deviation:.4f} over "
        f"{len(found.folds)} folds, AUC {found.verification.auc:.4f}"
    )
    then = ("eval-pairs", *_CROSS_TEST, "--pairs", pairs)
    tell(found, head, _written(found, out, {}), then=then)


def eval_ijb(
    model: Model,
    data: Annotated[Path, Option(help="A folder in the layout of IJB-B or IJB-C.")],
    gallery_model: GalleryModel = None,
    bridge: BridgeFile = None,
    flip: Flip = False,
    skip_bad: SkipBad = False,
    out: ResultOut = None,
    device: Device = "cpu",
) -> None:
    """Run the IJB protocols, 1:1 and 1:N; self-test or cross-test."""
    sides = _sides(model, gallery_model, bridge, flip, device)
    found = evaluate_ijb(data, sides, skip_bad, name_skipped)
    searched = found.identification
    head = f"{found.data['templates']:,} templates of {found.data['images']:,} images"
    table = _written(found, out, searched.tpir | searched.ranks)
    tell(found, head, table, then=("eval-ijb", *_CROSS_TEST, "--data", data))


def _sides(
    model: Path, gallery_model: Path | None, bridge: Path | None, flip: bool, device: str
) -> Sides:
    gallery = load_model(gallery_model, device) if gallery_model else None
    return Sides(load_model(model, device), gallery, bridge, flip, progress_bar)


def _written(found: ProtocolResult, out: Path | None, more: Mapping[str, float]) -> Table:
    """Write a result where it is wanted, and return its TAR at FAR, and `more`, as a table."""
    if out is not None:
        write_atomically(out, found.to_json())
    table = Table("figure", "value")
    points = {tar_name(point.wanted): point.rate for point in found.verification.points}
    for name, value in {**points, **more}.items():
        table.add_row(name, f"{value:.4f}")
    return table


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
