"""`mixbct doctor`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mixbct.cli.options import AsJson, Device, TrustCode
from mixbct.cli.output import progress_bar, tell
from mixbct.gallery.foreign import Columns
from mixbct.schemas.checkup import Checkup, CheckupReport
from mixbct.workflows.doctor import check_up

_NARROW = 0.3


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
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Look at stored vectors, which are only read: damage, duplicates, two models in one column.

    It also says what the old model could do whitened, and what an upgrade would need.
    """
    told = {
        "--table": table,
        "--key": key,
        "--vector": vector,
        "--label": label,
        "--contract-column": contract_column,
        "--preset": preset,
        "--keys": keys,
        "--labels": labels,
    }
    report = check_up(
        store,
        contract=contract,
        columns=Columns(table, key, vector, label, contract_column),
        preset=preset,
        keys=keys,
        labels=labels,
        images=images,
        model=model,
        device=device,
        stage=progress_bar,
    )
    tell(report, as_json, *_lines(report), then=_next(report, told))


def _lines(report: CheckupReport) -> Iterator[str]:
    yield f"{report.place}: {'a gallery' if report.gallery else 'vectors of another program'}"
    yield from (f"note: {note}" for note in report.notes)
    if not report.found:
        yield "it holds no vectors"
    for each in report.found:
        yield ""
        yield f"{each.contract}: {each.rows:,} rows of {each.contract.dim} dimensions"
        yield from (f"  {line}" for line in _of_one(each, report.rate))


def _of_one(found: Checkup, rate: float | None) -> Iterator[str]:
    for why, rows in found.unreadable.items():
        yield f"! {rows:,} rows with {why}"
    if faulty := found.not_finite + found.zero:
        named = ", ".join(found.faulty) + (", …" if faulty > len(found.faulty) else "")
        yield f"! {found.not_finite:,} rows with NaN or infinity, {found.zero:,} of zeros: {named}"
    for sign in found.mixture:
        yield f"! perhaps two models in one column: {sign.says}"
    if found.norms:
        norms = found.norms
        yield f"norms {norms.least:.4g} to {norms.largest:.4g}, median {norms.median:.4g}"
    if found.space:
        space = found.space
        narrow = " (a narrow cone: whitening may gain much)" if space.mean_cosine > _NARROW else ""
        yield f"mean cosine of two rows {space.mean_cosine:.3f}{narrow}"
        yield f"effective rank {space.effective_rank:.1f} of {found.contract.dim}"
        yield (
            f"{found.exact_duplicates:,} rows are there before to the bit; of {space.looked_at:,} "
            f"looked at, {space.near_duplicates:.1%} have a near duplicate"
        )
    if labels := found.labels:
        yield (
            f"{labels.labels:,} labels, median {labels.median:g} items, largest "
            f"{labels.largest:,}; {labels.of_one:,} with one item, {labels.unlabelled:,} items "
            "without a label"
        )
        if labels.near_duplicates_across:
            yield f"! {labels.near_duplicates_across:,} near duplicates have different labels"
    else:
        yield "no labels: nothing can be said of accuracy"
    if gain := found.whitening:
        (lies, whitened), (tar, tar_whitened) = gain.mean_average_precision, gain.true_accept_rate
        yield (
            f"whitened, tonight, for nothing: mAP {100 * lies:.1f} to {100 * whitened:.1f}, "
            f"TAR@1e-3 {100 * tar:.1f} to {100 * tar_whitened:.1f} (on labels that it was not "
            f"fitted on, of {gain.labels:,})"
        )
    size = 4 * found.rows * found.contract.dim / 1e6
    yield f"behind a bridge: no image needed, no vector changed, an index of {size:,.1f} MB"
    if found.with_images is not None:
        share = found.with_images / max(found.rows, 1)
        yield f"{found.with_images:,} items ({share:.0%}) have an image"
        if rate:
            whole, tenth = found.with_images / rate, found.with_images / rate / 10
            yield (
                f"embedded again at {rate:,.0f} images/s: {_time(whole)} for these, "
                f"{_time(tenth)} for a tenth of them"
            )


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _next(report: CheckupReport, told: Mapping[str, str | None]) -> tuple[str, ...]:
    """Return the one command to run next: faults first, then the upgrade."""
    faulty = any(each.not_finite + each.zero for each in report.found)
    if not report.gallery:
        words = [word for name, value in told.items() if value for word in (name, value)]
        words += ["--contract", "NAME", *(["--skip-bad"] if faulty else [])]
        return ("gallery", "import", "GALLERY", report.place, *words)
    if not report.found:
        return ("gallery", "enrol", report.place, "--bank", "BANK")
    if faulty:
        return ("gallery", "status", report.place, "--verify")
    return ("adapt", "--from", "NEW-BANK", "--to", "OLD-BANK", "--out", "bridge.json")
