"""`mixbct doctor`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mixbct.cli.options import Device
from mixbct.cli.output import progress_bar, tell
from mixbct.gallery.foreign import Columns
from mixbct.report.templates import render_page
from mixbct.schemas.checkup import CheckupReport
from mixbct.workflows.doctor import check_up


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
    says = render_page("checkup.txt.j2", report=report).rstrip()
    tell(report, says, then=_next(report, words))


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
