"""`mixbct gallery export` and `mixbct gallery reindex`."""

import contextlib
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Option

from mixbct.cli.options import GalleryPlace
from mixbct.cli.output import progress_bar, tell
from mixbct.gallery import Gallery
from mixbct.gallery.export import export_files
from mixbct.gallery.export_bank import export_bank
from mixbct.gallery.export_table import export_table
from mixbct.gallery.postgres.reindex import reindex as search_by
from mixbct.gallery.stores import open_store
from mixbct.reading import read_lines_of
from mixbct.schemas.contract import Contract
from mixbct.schemas.record import Record


class IndexedContract(Record):
    """How the rows of one contract are searched."""

    contract: Contract
    rows: int
    exact: bool
    recall: float


class IndexReport(Record):
    """How a gallery is searched from now on."""

    gallery: str
    index: str
    contracts: tuple[IndexedContract, ...]


def export(
    gallery: GalleryPlace,
    out: Path | None = Option(None, help="Write files for another engine into this new folder."),
    form: Literal["numpy", "parquet", "bank"] = Option(
        "numpy", help="Of the files; a bank holds rows as they are stored, of one contract."
    ),
    contract: str | None = Option(None, metavar="NAME", help="Of a bank, where there are several."),
    keys: Path | None = Option(
        None, metavar="FILE", help="Only these rows into a bank, one a line."
    ),
    to: str | None = Option(None, metavar="URL", help="Or write into this PostgreSQL database."),
    table: str | None = Option(None, help="Its table, or schema.table; made if missing."),
    column: str | None = Option(None, help="A new column for the vectors."),
    key: str | None = Option(None, help="Its column of the gallery's keys [the primary key]."),
) -> None:
    """Hand the vectors on, as the query model's queries meet them; the gallery stays as it is.

    Files hold ids, keys, labels and mapped vectors, and what queries go through, for any other
    engine. A table's column holds vectors in the query model's own space, so that an unchanged
    application compares new queries with them by cosine.
    """
    if (out is None) == (to is None) or (to is not None and not (table and column)):
        raise typer.BadParameter("give --out FOLDER, or --to URL with --table and --column")
    if (keys or contract) and (out is None or form != "bank"):
        raise typer.BadParameter("--keys and --contract go with --form bank and --out")
    with Gallery.open(gallery) as opened, opened.read() as snapshot, progress_bar("export") as tick:
        if form == "bank" and out is not None:
            wanted = read_lines_of(keys, "list of keys") if keys else None
            bank = export_bank(snapshot, out, contract, wanted, tick)
            said = f"{out}: {bank.rows:,} rows of {bank.contract}, {len(bank.classes):,} classes"
            then = ("adapt", "--from", "NEW-BANK", "--to", out, "--out", "bridge.json")
            tell(bank, said, then=then)
        elif form != "bank" and out is not None:
            manifest = export_files(snapshot, opened.place, out, form, tick)
            rows = sum(each.rows for each in manifest.contracts)
            said = f"{out}: {rows:,} rows of {len(manifest.contracts)} contracts, as {form}"
            tell(manifest, said, then=("gallery", "status", opened.place))
        else:
            found = export_table(snapshot, to or "", table or "", column or "", key, tick)
            said = (
                f"{found.place}, {found.table}.{found.column}: {found.written:,} rows written, "
                f"{found.unchanged:,} there already, {found.missing:,} keys not in the table"
            )
            tell(found, said, then=("gallery", "status", opened.place))


def reindex(
    gallery: GalleryPlace,
    index: Annotated[
        str, Option(help="exact, pgvector-hnsw, milvus://HOST:PORT or milvus:/FILE.db.")
    ],
) -> None:
    """Choose how a gallery in PostgreSQL is searched: exactly, or by an approximate index."""
    report = reindexed(gallery, index)
    lines = (
        f"{each.rows:,} rows of {each.contract}: "
        f"{'exact' if each.exact else f'not exact, recall at 10 of {each.recall:.4f}'}"
        for each in report.contracts
    )
    said = f"{report.gallery}: searched by {report.index}"
    tell(report, said, *lines, then=("gallery", "status", report.gallery))


def reindexed(gallery: str, index: str) -> IndexReport:
    """Build an index and measure it."""
    with contextlib.closing(open_store(gallery)) as store, progress_bar("index") as tick:
        found = search_by(store, index, tick)
    contracts = (
        IndexedContract(contract=stored.contract, rows=stored.rows, exact=exact, recall=recall)
        for stored, exact, recall in found
    )
    return IndexReport(gallery=store.place, index=index, contracts=tuple(contracts))
