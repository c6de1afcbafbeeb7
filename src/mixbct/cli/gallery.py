"""`mixbct gallery`: build a gallery, search it, and look after it."""

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import typer
from rich.cells import cell_len, set_cell_size
from typer import Argument, Option

from mixbct.backbones.model import load_model, read_manifest
from mixbct.cli import gallery_bulk
from mixbct.cli.given import embed_images, read_given
from mixbct.cli.options import Commands, Device, GalleryPlace, SkipBad
from mixbct.cli.output import name_skipped, progress_bar, say, tell
from mixbct.data.bank import FeatureBank
from mixbct.data.foreign_bank import declared_contract
from mixbct.data.source import Source
from mixbct.errors import BankError, GalleryError
from mixbct.features.extract import embed_source
from mixbct.gallery import Gallery
from mixbct.gallery.records import GalleryStatus, SearchReport
from mixbct.reading import read_lines_of
from mixbct.schemas.contract import Contract
from mixbct.workflows.rows import open_rows
from mixbct.workflows.service import load_query_model

app = Commands()

# what moves a terminal's cursor, or turns the direction of what follows
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@app.command()
def init(
    gallery: GalleryPlace,
    model: Path | None = Option(None, help="Folder of the model that queries come from."),
    bank: Path | None = Option(None, help="A bank of its vectors, where the model is elsewhere."),
    contract: str | None = Option(None, help="A name that you give the model (with --dim)."),
    dim: int | None = Option(None, min=1, help="Dimensions of that model's vectors."),
    index: str | None = Option(None, help="In PostgreSQL: as `gallery reindex` takes it [exact]."),
) -> None:
    """Make an empty gallery for the vectors of a model, which may be known by a name alone."""
    if sum(map(bool, (model, bank, contract))) != 1 or bool(dim) != bool(contract):
        raise typer.BadParameter("give one of --model, --bank, and --contract with --dim")
    folder, declared = None, declared_contract(contract or "", dim or 1)
    if bank is not None:
        declared = FeatureBank(bank).manifest.contract
    if model is not None:
        folder, manifest = read_manifest(model)
        declared = manifest.contract
    with Gallery.create(gallery, declared, folder) as opened:
        if index:
            gallery_bulk.reindexed(gallery, index)
        end(opened, f"an empty gallery, searched by {declared}")


@app.command()
def enrol(
    gallery: GalleryPlace,
    items: list[str] | None = Argument(None, metavar="[IMAGE|VECTORS.npy|-]..."),
    key: list[str] | None = Option(None, help="Of each of them [as they are named]."),
    label: str | None = Option(None, help="Of all of them [none]."),
    contract: str | None = Option(None, help="What vectors are of, by name or id [query model's]."),
    bank: Path | None = Option(None, help="Enrol the rows of this feature bank."),
    data: Path | None = Option(None, help="Enrol these images, embedded by the query model."),
    split: Path | None = Option(None, help="Only a part of this split of --data."),
    part: str | None = Option(None, help="That part [gallery]."),
    device: Device = "cpu",
    skip_bad: SkipBad = False,
    replace: bool = Option(False, "--replace", help="Replace items of the same key (backfill)."),
) -> None:
    """Store items, with labels or without: all of them or, on an error, none."""
    if (bank is not None) + (data is not None) + bool(items) != 1:
        raise typer.BadParameter("give either items, --bank or --data")
    if (split and not data) or ((key or label or contract) and not items):
        raise typer.BadParameter("--split goes with --data; --key, --label, --contract with items")
    with Gallery.open(gallery) as opened:
        source: Source
        if items:
            names, vectors = read_given(items, lambda: load_query_model(opened, device))
            keys, labels = key or names, [label] * len(names)
            of = opened.contract(contract)
        else:
            if bank is not None:
                source = stored = FeatureBank(bank)
                of, vectors = stored.manifest.contract, stored.all()
            else:
                model = load_query_model(opened, device)
                part = part or ("gallery" if split else None)
                source, skipped = open_rows(data or Path(), model.takes, split, part, skip_bad)
                name_skipped(skipped)
                with progress_bar("embed") as tick:
                    vectors = embed_source(model, source, progress=tick)
                of = model.contract
            keys, classes = source.keys(), source.classes()
            known = source.labels().tolist() if classes else []
            labels = [classes[each] for each in known] or [None] * len(keys)
        say(f"enrolling {len(keys):,} items of {of}")
        with progress_bar("enrol") as tick:
            report = opened.enrol(keys, labels, vectors, of, replace, tick)
    stored_now = f"{report.added:,} items added, {report.replaced:,} replaced"
    said = f"{report.gallery}: {stored_now}, {report.rows:,} in all"
    tell(report, said, then=("gallery", "search", report.gallery, "QUERY"))


app.command()(gallery_bulk.export)
app.command()(gallery_bulk.reindex)


@app.command()
def search(
    gallery: GalleryPlace,
    items: list[str] | None = Argument(None, metavar="[IMAGE|VECTORS.npy|-]..."),
    k: int = Option(5, "-k", min=1, help="Hits a query."),
    key: list[str] | None = Option(None, help="Search with this stored item; can be repeated."),
    bank: Path | None = Option(None, help="Search with the rows of a bank of the query model."),
    row: list[int] | None = Option(None, min=0, help="Only this row of --bank; can be repeated."),
    contract: str | None = Option(None, help="What vectors are of, by name or id [query model's]."),
    old_model: Path | None = Option(
        None, help="The old model's folder, or its vectors of the same queries (.npy), to mix in."
    ),
    far: float | None = Option(None, help="False-accept rate to accept at [the edge's]."),
    count_hits: bool = Option(
        False,
        "--count-hits",
        help="Count what is found, for `gallery backfill --order hits`. Off unless asked for: it "
        "keeps how often each item was searched, though not by whom or when.",
    ),
    device: Device = "cpu",
) -> None:
    """Find the stored items that are most like an image, a vector, or another stored item."""
    if bool(items) + bool(key) + (bank is not None) != 1:
        raise typer.BadParameter("give either images or vectors, --key, or --bank")
    if row and bank is None:
        raise typer.BadParameter("--row goes with --bank")
    if old_model is not None and old_model.is_dir() and not items:
        raise typer.BadParameter("an --old-model folder goes with images; else name its vectors")
    with Gallery.open(gallery) as opened:
        of = opened.contract(contract)
        if bank is not None:
            stored = FeatureBank(bank)
            wanted = row or range(len(stored))
            if max(wanted) >= len(stored):
                raise BankError(f"{bank} has no row {max(wanted)}; its last is {len(stored) - 1}")
            keys, of = stored.keys(), stored.manifest.contract
            names = [keys[number] for number in wanted]
            vectors = stored.read(np.array(wanted, dtype=np.int64))
        elif key:
            names, vectors = key, opened.vectors(key)
        else:
            names, vectors = read_given(items or [], lambda: load_query_model(opened, device))
        old: tuple[np.ndarray, Contract | None] | None = None
        if old_model is not None and old_model.is_dir():
            older = load_model(old_model, device)
            old = embed_images(older, items or []), older.contract
        elif old_model is not None:
            old = read_given([str(old_model)], lambda: load_query_model(opened, device))[1], None
        hits = opened.search(vectors, of, k, far, old)
        report = hits.report(opened.place, of, names)
        if count_hits:
            opened.count_hits(Counter(hit.key for one in report.queries for hit in one.hits))
    tell(report, *_hit_lines(report), then=("gallery", "status", report.gallery))


app.command("import")(gallery_bulk.import_)
app.command()(gallery_bulk.backfill)
app.command()(gallery_bulk.serve)


@app.command()
def remove(
    gallery: GalleryPlace,
    keys: list[str] | None = Argument(None, metavar="KEY..."),
    keys_from: Path | None = Option(None, "--keys", help="A file with a key a line."),
) -> None:
    """Take items out: all of them or, on an error, none."""
    asked = [*(keys or []), *(read_lines_of(keys_from, "list of keys") if keys_from else [])]
    if not asked:
        raise typer.BadParameter("give keys, or a file of them (--keys)")
    with Gallery.open(gallery) as opened:
        gone = opened.remove(asked)
        said = f"{gone:,} items taken out; `mixbct gallery prune` forgets what they were"
        end(opened, said)


@app.command()
def prune(gallery: GalleryPlace) -> None:
    """Forget for good what items were and what was removed; no switch can be undone then."""
    with Gallery.open(gallery) as opened:
        gone = opened.prune()
        end(opened, f"{gone:,} earlier versions of items forgotten")


@app.command()
def status(
    gallery: GalleryPlace,
    verify: bool = Option(False, "--verify", help="Read every row, and name changed ones."),
) -> None:
    """Show what a gallery holds and which model searches it."""
    with Gallery.open(gallery) as opened:
        faults = None
        if verify:
            with progress_bar("verify") as tick:
                faults = opened.faults(tick)
        end(opened, faults=faults)
    if faults:
        raise GalleryError(
            f"{opened.place} is damaged, {len(faults)} times; enrol the items that are named again "
            "(--replace), or restore a backup"
        )


def end(gallery: Gallery, done: str | None = None, faults: list[str] | None = None) -> None:
    """Print what was done, or else the whole status, and the next command."""
    found = None if faults is None else tuple(faults)
    status = gallery.status().model_copy(update={"faults": found})
    said: Iterable[str] = [f"{gallery.place}: {done}"] if done else _status_lines(status)
    verb, *words = ("search", "QUERY") if status.rows else ("enrol", "--bank", "BANK")
    tell(status, *said, then=("gallery", verb, gallery.place, *words))


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
        rows = [("rank", "score", "FAR", "accepted", "key", "label", "contract")]
        for hit in found.hits:
            far = "–" if hit.far is None else f"{hit.far:.0e}"
            figures = f"{hit.rank:4}", f"{hit.score:.4f}", far, marks[hit.accepted]
            rows.append((*figures, hit.key, hit.label or "–", short[hit.contract]))
        yield from columns(rows, whole=5)


def _status_lines(status: GalleryStatus) -> Iterator[str]:
    yield f"{status.gallery}, searched by {status.query_model}"
    rows = [("rows", "tied by", "search index", "contract")]
    for stored in status.contracts:
        tie = "query model" if stored.contract.id == status.query_model.id else "edge"
        tie += "" if stored.threshold is None else f", threshold {stored.threshold:.4f}"
        cached = stored.cached_rows
        index = "built at the next search" if cached is None else f"{cached:,} rows cached"
        rows.append((f"{stored.rows:,}", tie, index, str(stored.contract)))
    yield from columns(rows, whole=3)
    if 0 < status.own_rows < status.rows:
        yield f"embedded by the query model: {gallery_bulk.coverage(status.own_rows, status.rows)}"
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
