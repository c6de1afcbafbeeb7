"""`mixbct gallery backfill`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

from mixbct.cli.options import Device, GalleryPlace
from mixbct.cli.output import name_skipped, progress_bar, tell
from mixbct.data import open_source
from mixbct.features.ordering import Order
from mixbct.gallery import Gallery
from mixbct.workflows.backfill import backfill as run_backfill
from mixbct.workflows.service import load_query_model


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
        source = open_source(images, model.takes, skip_bad=True)
        with progress_bar("backfill") as tick:
            report = run_backfill(
                opened,
                model,
                source,
                order=order,
                seed=seed,
                limit=limit,
                share=share,
                rate=paced,
                progress=tick,
            )
    name_skipped(report.missing, "items without an image, which stay as they are")
    name_skipped(report.unreadable, "images that cannot be read, whose items stay as they are")
    done = f"{report.replaced:,} items embedded again in {report.seconds:,.1f} s"
    said = (
        f"{report.gallery}: {done}; by {report.contract}: {coverage(report.own_rows, report.rows)}"
    )
    tell(report, said, then=("gallery", "status", report.gallery))


def coverage(own: int, rows: int) -> str:
    """Return how far a backfill is, in words."""
    return f"{own:,} of {rows:,} rows ({own / max(rows, 1):.1%})"
