"""The verbs of `mixbct gallery` over a whole one: import, export, reindex, backfill, serve."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, BadParameter, Option

from mixbct.cli.options import Device, GalleryPlace
from mixbct.cli.output import name_skipped, progress_bar, say, tell
from mixbct.data import open_source as open_images
from mixbct.errors import NoGalleryError, ServeError
from mixbct.features.ordering import Order
from mixbct.gallery import Gallery
from mixbct.gallery.export import export_bank, export_files
from mixbct.gallery.export_table import export_table
from mixbct.gallery.foreign import Columns, open_source
from mixbct.gallery.foreign.likeness import refuse_another_model
from mixbct.gallery.foreign.screening import Screening
from mixbct.gallery.postgres.reindex import reindex as search_by
from mixbct.gallery.records import SourceImport
from mixbct.gallery.stores import open_store
from mixbct.reading import needing_extra, read_lines_of
from mixbct.schemas.contract import Contract
from mixbct.schemas.record import Record
from mixbct.workflows.backfill import backfill as run_backfill
from mixbct.workflows.service import load_query_model


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


class Served(Record):
    """Where a gallery is served."""

    gallery: str
    url: str
    token: bool


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
    same_model: bool = Option(
        False, "--same-model", help="Compare with no rows under the same name."
    ),
    batch: int = Option(8192, min=1, max=2**20, help="Rows that are stored at once."),
) -> None:
    """Take over vectors that another program keeps; what it keeps is only read.

    Rows are stored batch by batch: after a stop the same command goes on, and rows that are there
    already as they come are left alone. The model may be unknown and gone: its contract is the
    name that you give it, and a gallery that is made here is searched by that one until it is
    switched. Vectors that cannot be of the model whose rows are there under that name are refused.
    Vectors are stored with norm 1, since they are compared by cosine.
    """
    columns = Columns(table, key, vector, label, contract_column)
    found = open_source(source, contract, columns, preset, keys, labels)
    for note in found.notes:
        say(f"note: {note}")
    screening = Screening(found, skip_bad)
    try:
        opened = Gallery.open(gallery)
    except NoGalleryError:
        opened = Gallery.create(gallery, found.contract)
    with opened, progress_bar("import") as tick:
        if not same_model:
            with opened.read() as snapshot:
                refuse_another_model(snapshot, found, replace)
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


def _lines(report: SourceImport) -> Iterator[str]:
    stored = report.stored
    yield (
        f"{stored.gallery}: {stored.added:,} items of {report.contract} added, {stored.replaced:,} "
        f"replaced, {stored.unchanged:,} there already; {stored.rows:,} in all, with norm 1"
    )
    for each in report.left_out:
        yield f"left out {each.rows:,} with {each.why}: {each.names}"


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
        raise BadParameter("give --out FOLDER, or --to URL with --table and --column")
    if (keys or contract) and (out is None or form != "bank"):
        raise BadParameter("--keys and --contract go with --form bank and --out")
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


def backfill(
    gallery: GalleryPlace,
    images: Annotated[Path, Argument(help="Images of the items, known by their keys.")],
    order: Order = Option(
        "random",
        help="What comes first: most searched (hits), least credible by the old model, of the most "
        "items a class; `mixbct eval --backfill` says which gains most.",
    ),
    seed: int = Option(0, min=0, max=2**63 - 1, help="Of the random order."),
    rate: str | None = Option(None, metavar="N/s", help="Images a second at most [no limit]."),
    limit: int | None = Option(None, min=0, help="Items that this run replaces at most."),
    share: float = Option(1.0, min=0, max=1, help="Stop when this share of all rows is done."),
    device: Device = "cpu",
) -> None:
    """Embed old rows again with the query model, while others search.

    Run it again after a stop or a kill: it goes on with what is left. What the rows were is kept,
    and a rollback brings it back, until `gallery prune`.
    """
    try:
        paced = None if rate is None else float(rate.removesuffix("/s"))
    except ValueError:
        paced = 0.0
    if paced is not None and not 0 < paced < float("inf"):
        raise BadParameter(f"--rate {rate}: give images a second, such as 50/s")
    with Gallery.open(gallery) as opened:
        model = load_query_model(opened, device)
        source = open_images(images, model.takes, skip_bad=True)
        with progress_bar("backfill") as tick:
            report = run_backfill(opened, model, source, order, seed, limit, share, paced, tick)
    name_skipped(report.missing, "items without an image, which stay as they are")
    name_skipped(report.unreadable, "images that cannot be read, whose items stay as they are")
    done = f"{report.replaced:,} items embedded again in {report.seconds:,.1f} s"
    own = f"by {report.contract}: {coverage(report.own_rows, report.rows)}"
    tell(report, f"{report.gallery}: {done}; {own}", then=("gallery", "status", report.gallery))


def coverage(own: int, rows: int) -> str:
    """Return how far a backfill is, in words."""
    return f"{own:,} of {rows:,} rows ({own / max(rows, 1):.1%})"


def serve(
    gallery: GalleryPlace,
    host: str = Option("127.0.0.1", help="Address; any but a loopback one needs a token."),
    port: int = Option(8000, min=0, max=65535, help="Port; 0: any that is free."),
    token_file: Path | None = Option(
        None, help="A file with the token that requests must give [MIXBCT_TOKEN]."
    ),
    images: Path | None = Option(
        None, metavar="SOURCE", help="The images that the keys come from, to show them."
    ),
    old_model: Path | None = Option(
        None, help="The old model's folder [of what a rollback would bring back]."
    ),
    both: bool = Option(False, "--both", help="Mix the old model's query in, where it can run."),
    models: Path | None = Option(None, help="A folder of model folders, to switch to by name."),
    hits: bool = Option(False, "--hits", help="Count how often each row is found."),
    device: Device = "cpu",
) -> None:
    """Serve a gallery: a page for people, an API for programs."""
    with needing_extra("serve", "the server", ServeError):
        from mixbct.web.app import make_app
        from mixbct.web.encoders import Encoders, Pictures
        from mixbct.web.observed import HitCounts, Observed
        from mixbct.web.server import check_address, read_token
        from mixbct.web.server import serve as run
        from mixbct.web.serving import Serving
    token = read_token(token_file)
    check_address(host, token)
    with Gallery.open(gallery) as opened:
        serving = Serving(
            opened,
            Encoders(opened, device, old_model),
            Pictures(images),
            Observed(),
            HitCounts(opened.count_hits if hits else None),
            both,
            models,
        )
        app = make_app(serving, token)
        with progress_bar("build the index") as tick:
            opened.prepare(opened.contract(), progress=tick)

        def ready(url: str) -> None:
            served = Served(gallery=opened.place, url=url, token=token is not None)
            tell(served, f"{opened.place} at {url}", then=("gallery", "status", opened.place))

        run(app, host, port, ready)
