"""`mixbct gallery import`."""

from collections.abc import Iterator
from typing import Annotated

from typer import Argument, Option

from mixbct.cli.output import progress_bar, say, tell
from mixbct.errors import NoGalleryError
from mixbct.gallery import Gallery
from mixbct.gallery.foreign import Columns, open_source
from mixbct.gallery.foreign.screening import Screening
from mixbct.gallery.records import SourceImport
from mixbct.schemas.contract import Contract


def import_(
    gallery: Annotated[
        str, Argument(metavar="GALLERY", help="Its folder or URL; made if missing.")
    ],
    source: Annotated[
        str,
        Argument(
            metavar="SOURCE",
            help="A .npy, .npz, FAISS or SQLite file, a feature bank, or postgresql://…",
        ),
    ],
    contract: str | None = Option(
        None,
        metavar="NAME",
        help="Of the vectors' model: a name of your own, or one in the source.",
    ),
    preset: str | None = Option(
        None,
        help="The product that made the tables: immich, compreface, deepface, insightface-server.",
    ),
    table: str | None = Option(None, help="Table or view, with its schema where needed."),
    key: str | None = Option(None, metavar="COLUMN", help="Names the item."),
    vector: str | None = Option(None, metavar="COLUMN", help="Holds the vector."),
    label: str | None = Option(None, metavar="COLUMN", help="Names the class [none]."),
    contract_column: str | None = Option(None, metavar="COLUMN", help="Names the model [none]."),
    keys: str | None = Option(
        None, metavar="FILE", help="Keys, one a line; or a member of the .npz."
    ),
    labels: str | None = Option(
        None, metavar="FILE", help="Labels likewise; an empty line is none."
    ),
    skip_bad: bool = Option(False, "--skip-bad", help="Leave out and name what cannot be stored."),
    replace: bool = Option(False, "--replace", help="Replace items that are there otherwise."),
    batch: int = Option(8192, min=1, max=2**20, help="Rows that are stored at once."),
) -> None:
    """Take over vectors that another program keeps; what it keeps is only read.

    Rows are stored batch by batch: after a stop the same command goes on, and rows that are there
    already as they come are left alone. The model may be unknown and gone: its contract is the
    name that you give it, and a gallery that is made here is searched by that one until it is
    switched. Vectors are stored with norm 1, since they are compared by cosine.
    """
    columns = Columns(table, key, vector, label, contract_column)
    found = open_source(source, contract, columns, preset, keys, labels)
    for note in found.notes:
        say(f"note: {note}")
    screening = Screening(found, skip_bad)
    with _opened(gallery, found.contract) as opened, progress_bar("import") as tick:
        stored = opened.import_rows(screening.batches(batch, tick), replace)
    report = SourceImport(
        source=found.name,
        source_digest=screening.digest(),
        contract=found.contract,
        notes=found.notes,
        left_out=screening.left_out(),
        stored=stored,
    )
    tell(report, *_lines(report), then=("gallery", "status", stored.gallery))


def _opened(place: str, contract: Contract) -> Gallery:
    """Open the gallery; where there is none, make one that the vectors' own model searches."""
    try:
        return Gallery.open(place)
    except NoGalleryError:
        return Gallery.create(place, contract)


def _lines(report: SourceImport) -> Iterator[str]:
    stored = report.stored
    yield (
        f"{stored.gallery}: {stored.added:,} items of {report.contract} added, {stored.replaced:,} "
        f"replaced, {stored.unchanged:,} there already; {stored.rows:,} in all, with norm 1"
    )
    for each in report.left_out:
        first = ", ".join(each.first) + (", …" if each.rows > len(each.first) else "")
        yield f"left out {each.rows:,} with {each.why}: {first}"
