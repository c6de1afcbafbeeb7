"""`mixbct gallery`: build a gallery, search it, and look after it."""

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.cells import cell_len, set_cell_size
from typer import Argument, Option

from mixbct.backbones.model import EmbeddingModel, load_model, read_manifest
from mixbct.cli.gallery_export import export, reindex, reindexed
from mixbct.cli.options import AsJson, Device, SkipBad, TrustCode
from mixbct.cli.output import name_skipped, progress_bar, say, tell
from mixbct.data.bank import FeatureBank
from mixbct.data.bank_source import BankSource
from mixbct.data.images import decode
from mixbct.data.source import Source
from mixbct.errors import BankError, ContractError, GalleryError
from mixbct.features.extract import embed_source
from mixbct.gallery import Gallery
from mixbct.gallery.records import GalleryStatus, QueryHits, SearchReport
from mixbct.reading import read_lines_of
from mixbct.workflows.rows import open_rows

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

GalleryPlace = Annotated[str, Argument(metavar="GALLERY", help="The gallery's folder, or its URL.")]
"""A string: a path would make one of a URL's two slashes."""

# what moves a terminal's cursor, or turns the direction of what follows
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@app.command()
def init(
    gallery: GalleryPlace,
    model: Annotated[Path, Option(help="Folder of the model that queries come from.")],
    index: str | None = Option(None, help="In PostgreSQL: as `gallery reindex` takes it [exact]."),
    as_json: AsJson = False,
) -> None:
    """Make an empty gallery for the vectors of a model."""
    folder, manifest = read_manifest(model)
    with Gallery.create(gallery, manifest.contract, folder) as opened:
        if index:
            reindexed(gallery, index)
        end(opened, as_json, f"an empty gallery, searched by {manifest.contract}")


@app.command()
def enrol(
    gallery: GalleryPlace,
    bank: Path | None = Option(None, help="Enrol the rows of this feature bank."),
    data: Path | None = Option(None, help="Enrol these images, embedded by the query model."),
    split: Path | None = Option(None, help="Only a part of this split of --data."),
    part: str | None = Option(None, help="That part [gallery]."),
    device: Device = "cpu",
    skip_bad: SkipBad = False,
    replace: bool = Option(False, "--replace", help="Replace items of the same key (backfill)."),
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Store items: all of them or, on an error, none."""
    if (bank is None) == (data is None):
        raise typer.BadParameter("give either --bank or --data")
    if split and not data:
        raise typer.BadParameter("--split goes with --data")
    with Gallery.open(gallery) as opened:
        if bank is not None:
            stored = FeatureBank(bank)
            source: Source = BankSource(stored)
            contract, vectors = stored.manifest.contract, stored.all()
        else:
            model = _load_query_model(opened, device)
            part = part or ("gallery" if split else None)
            source, skipped = open_rows(data or Path(), model.takes, split, part, skip_bad)
            name_skipped(skipped)
            with progress_bar("embed") as tick:
                vectors = embed_source(model, source, progress=tick)
            contract = model.contract
        classes = source.classes()
        names = [classes[label] for label in source.labels()]
        say(f"enrolling {len(names):,} items of {contract}")
        with progress_bar("enrol") as tick:
            report = opened.enrol(source.keys(), names, vectors, contract, replace, tick)
    stored_now = f"{report.added:,} items added, {report.replaced:,} replaced"
    said = f"{report.gallery}: {stored_now}, {report.rows:,} in all"
    tell(report, as_json, said, then=("gallery", "search", report.gallery, "IMAGE"))


app.command()(export)
app.command()(reindex)


@app.command()
def search(
    gallery: GalleryPlace,
    images: list[Path] | None = Argument(None, metavar="IMAGE..."),
    k: int = Option(5, "-k", min=1, help="Hits a query."),
    bank: Path | None = Option(None, help="Search with the rows of a bank of the query model."),
    row: list[int] | None = Option(None, min=0, help="Only this row of --bank; can be repeated."),
    device: Device = "cpu",
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Find the stored items that are most like an image, or like a bank's row."""
    if bool(images) == (bank is not None):
        raise typer.BadParameter("give either images or --bank")
    if row and bank is None:
        raise typer.BadParameter("--row goes with --bank")
    with Gallery.open(gallery) as opened:
        if bank is not None:
            stored = FeatureBank(bank)
            wanted = row or range(len(stored))
            if max(wanted) >= len(stored):
                raise BankError(f"{bank} has no row {max(wanted)}; its last is {len(stored) - 1}")
            keys, contract = stored.keys(), stored.manifest.contract
            names = [keys[number] for number in wanted]
            vectors = stored.read(np.array(wanted, dtype=np.int64))
        else:
            model = _load_query_model(opened, device)
            names, contract = [str(path) for path in images or []], model.contract
            pixels = np.stack([decode(path, model.preprocessing) for path in images or []])
            vectors = model.embed(torch.from_numpy(pixels)).cpu().numpy()
        hits = opened.search(vectors, contract, k)
        report = SearchReport(
            gallery=opened.place,
            query_model=contract,
            queries=tuple(QueryHits(query=name, hits=hits.of(i)) for i, name in enumerate(names)),
            exact=hits.exact,
        )
    tell(report, as_json, *_hit_lines(report), then=("gallery", "status", report.gallery))


@app.command()
def remove(
    gallery: GalleryPlace,
    keys: list[str] | None = Argument(None, metavar="KEY..."),
    keys_from: Path | None = Option(None, "--keys", help="A file with a key a line."),
    as_json: AsJson = False,
) -> None:
    """Take items out: all of them or, on an error, none."""
    asked = [*(keys or []), *(read_lines_of(keys_from, "list of keys") if keys_from else [])]
    if not asked:
        raise typer.BadParameter("give keys, or a file of them (--keys)")
    with Gallery.open(gallery) as opened:
        gone = opened.remove(asked)
        said = f"{gone:,} items taken out; `mixbct gallery prune` forgets what they were"
        end(opened, as_json, said)


@app.command()
def prune(gallery: GalleryPlace, as_json: AsJson = False) -> None:
    """Forget for good what items were and what was removed; no switch can be undone then."""
    with Gallery.open(gallery) as opened:
        gone = opened.prune()
        end(opened, as_json, f"{gone:,} earlier versions of items forgotten")


@app.command()
def status(
    gallery: GalleryPlace,
    verify: bool = Option(False, "--verify", help="Read every row, and name changed ones."),
    as_json: AsJson = False,
) -> None:
    """Show what a gallery holds and which model searches it."""
    with Gallery.open(gallery) as opened:
        faults = None
        if verify:
            with progress_bar("verify") as tick:
                faults = opened.faults(tick)
        end(opened, as_json, faults=faults)
    if faults:
        raise GalleryError(
            f"{opened.place} is damaged, {len(faults)} times; enrol the items that are named again "
            "(--replace), or restore a backup"
        )


def end(
    gallery: Gallery, as_json: bool, done: str | None = None, faults: list[str] | None = None
) -> None:
    """Print what was done, or else the whole status, and the next command."""
    found = None if faults is None else tuple(faults)
    status = gallery.status().model_copy(update={"faults": found})
    said: Iterable[str] = [f"{gallery.place}: {done}"] if done else _status_lines(status)
    verb, *words = ("search", "IMAGE") if status.rows else ("enrol", "--bank", "BANK")
    tell(status, as_json, *said, then=("gallery", verb, gallery.place, *words))


def _load_query_model(gallery: Gallery, device: str) -> EmbeddingModel:
    """Load the query model from the folder that the gallery remembers.

    What is there is compared by its manifest first: nothing of another model is loaded.

    Raises:
        GalleryError: the gallery knows no folder, or it is gone.
        ContractError: another model is there now.
    """
    query = gallery.query_model()
    if query.folder is None or not query.folder.is_dir():
        place = f"is no longer at {query.folder}" if query.folder else "has no known folder"
        raise GalleryError(
            f"the query model {query.contract} {place}; tell where it is with "
            f"`mixbct upgrade apply {gallery.place} MODEL`"
        )
    _, manifest = read_manifest(query.folder)
    if manifest.contract.id != query.contract.id:  # before anything of the folder is loaded
        raise ContractError(
            f"{query.folder} now holds {manifest.contract}, not the query model {query.contract}; "
            f"tell where that is with `mixbct upgrade apply {gallery.place} MODEL`"
        )
    return load_model(query.folder, device)


def _plain(text: str) -> str:
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def columns(rows: Sequence[Sequence[str]], whole: int) -> Iterator[str]:
    """Yield lines, one a row, with cells below each other.

    Where a line would not fit into the terminal, what comes after the first `whole` columns has a
    line of its own: a key is not broken in the middle, and can be copied.
    """
    plain = [[_plain(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*plain, strict=True)]
    fits = sum(widths) + 2 * len(widths) - 2 <= shutil.get_terminal_size().columns
    for row in plain:
        cells = [set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells if fits else cells[:whole]).rstrip()
        if not fits:
            yield f"      {', '.join(row[whole:])}"


def _hit_lines(report: SearchReport) -> Iterator[str]:
    marks = {True: "yes", False: "no", None: "–"}
    for found in report.queries:
        yield f"{_plain(found.query)}, searched by {report.query_model}"
        if not found.hits:
            yield "the gallery is empty"
            continue
        full = {hit.contract for hit in found.hits}
        short = {contract: contract.rpartition(" (")[0] for contract in full}
        if len(set(short.values())) < len(full):  # two contracts of one name
            short = {contract: contract for contract in full}
        rows = [("rank", "score", "accepted", "key", "label", "contract")]
        for hit in found.hits:
            cells = (
                f"{hit.rank:4}",
                f"{hit.score:.4f}",
                marks[hit.accepted],
                hit.key,
                hit.label or "–",
            )
            rows.append((*cells, short[hit.contract]))
        yield from columns(rows, whole=4)


def _status_lines(status: GalleryStatus) -> Iterator[str]:
    yield f"{status.gallery}, searched by {status.query_model}"
    rows = [("rows", "tied by", "search index", "contract")]
    for stored in status.contracts:
        own = stored.threshold is None
        tie = "query model" if own else f"edge, threshold {stored.threshold:.4f}"
        cached = stored.cached_rows
        index = "built at the next search" if cached is None else f"{cached:,} rows cached"
        rows.append((f"{stored.rows:,}", tie, index, str(stored.contract)))
    yield from columns(rows, whole=3)
    for edge in status.edges:
        yield (
            f"edge: queries of {edge.from_contract} may search {edge.to_contract}, threshold "
            f"{edge.threshold:.4f} at FAR {edge.far:g}{f'; {edge.bridge}' if edge.bridge else ''}"
        )
    yield f"model folder: {status.model_folder or 'not known'}"
    if status.searched_by != "exact":
        yield f"searched by {status.searched_by}; the gate judged exact search"
    yield f"size: {status.size_bytes / 1e6:.1f} MB"
    if status.faults is not None:
        for fault in status.faults or ["every row and record is as it was stored"]:
            yield f"verify: {_plain(fault)}"
