"""`mixbct upgrade`: change a gallery's query model, look at it before and after, and undo it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from mixbct.cli.gallery import columns, end
from mixbct.cli.options import Commands, GalleryPlace
from mixbct.cli.output import progress_bar, tell
from mixbct.errors import ContractError, ResultError
from mixbct.gallery import Gallery
from mixbct.gallery.records import GalleryStatus, UpgradePlan
from mixbct.schemas.gate import Edge, GateOutcome
from mixbct.schemas.record import read_record, record_there
from mixbct.workflows.service import apply_upgrade, asked_model

app = Commands()

Model = Annotated[
    Path | None,
    Argument(
        metavar="[MODEL]",
        help="The new query model's folder, or a bank of its vectors [what the edges lead from].",
    ),
]
Edges = Annotated[
    list[Path] | None,
    Option("--edge", help="What `mixbct gate` wrote for it; once for each stored contract."),
]


@app.command()
def plan(gallery: GalleryPlace, model: Model = None, edge: Edges = None) -> None:
    """Show what a switch of the query model would change; nothing is changed."""
    edges = _read_edges(edge)
    contract, _ = asked_model(model, edges)
    gates = tuple(_verdict(path, edge) for path, edge in zip(edge or [], edges, strict=True))
    with Gallery.open(gallery) as opened:
        found = opened.plan(contract, *edges).model_copy(update={"gates": gates})
    words = [word for path in edge or [] for word in ("--edge", path)]
    then = ("upgrade", "apply", found.gallery, *([model] if model else []), *words)
    tell(found, *_plan_lines(found), then=then)


@app.command()
def apply(gallery: GalleryPlace, model: Model = None, edge: Edges = None) -> None:
    """Switch the query model without touching a stored vector."""
    edges = _read_edges(edge)
    contract, folder = asked_model(model, edges)
    with Gallery.open(gallery) as opened:
        with progress_bar("build the index of mapped rows") as tick:
            before = apply_upgrade(opened, contract, folder, edges, tick).before
        end(opened, f"searched by {contract}, before by {before}")


@app.command()
def status(gallery: GalleryPlace) -> None:
    """Show which model searches a gallery, since when, and what a rollback would bring back."""
    with Gallery.open(gallery) as opened:
        found = opened.status()
    can = found.switches[-1].before is not None
    then = ("rollback", found.gallery) if can else ("plan", found.gallery, "MODEL")
    tell(found, *_status_lines(found), then=("upgrade", *then))


@app.command()
def rollback(
    gallery: GalleryPlace,
    edge: Annotated[
        list[Path] | None,
        Option(help="An edge from the earlier model to rows that came since, to keep them."),
    ] = None,
    leave_out: bool = Option(
        False, "--leave-out", help="Take out the rows that the earlier model cannot search."
    ),
) -> None:
    """Undo the last switch that is not undone; replaced items get their old vectors back."""
    edges = _read_edges(edge)
    with Gallery.open(gallery) as opened:
        done = opened.rollback(*edges, leave_out=leave_out)
    said = (
        f"{done.gallery}: searched by {done.query_model} again, before by {done.before}; "
        f"{done.given_back:,} items have their earlier vectors back, {len(done.left_out):,} were "
        "left out"
    )
    if done.damaged:
        said += f"; what {', '.join(done.damaged[:20])} had is damaged: they keep what they have"
    tell(done, said, then=("gallery", "search", done.gallery, "IMAGE"))


def _read_edges(paths: list[Path] | None) -> list[Edge]:
    return [read_record(path, Edge, ContractError, "edge") for path in paths or []]


def _verdict(path: Path, edge: Edge) -> GateOutcome | None:
    """Return what the gate wrote beside an edge, if it is about the same result."""
    name = path.name.removesuffix("edge.json")
    found = record_there(path.with_name(f"{name}gate.json"), GateOutcome, ResultError, "verdict")
    return found if found and found.result_digest == edge.result_digest else None


def _plan_lines(plan: UpgradePlan) -> Iterator[str]:
    yield f"{plan.gallery}: searched by {plan.before}, would be by {plan.query_model}"
    rows = [("rows", "tied by", "false-accept rate", "to build first", "contract")]
    for each in plan.rows:
        tie = "the new model's own" if each.threshold is None else f"threshold {each.threshold:.4f}"
        far = "–" if each.far is None else f"{each.far:g}"
        build = f"{each.index_bytes / 1e6:,.1f} MB, about {each.seconds:.1f} s"
        build = build if each.index_bytes else "nothing"
        rows.append((f"{each.rows:,}", tie, far, build, str(each.contract)))
    yield from columns(rows, whole=4)
    for each in plan.rows:
        if each.bridge:
            yield f"bridge to {each.contract}: {each.bridge}"
    for gate in plan.gates:
        if gate is None:
            yield "gate: its verdict is not beside the edge"
        for check in gate.checks if gate else ():
            yield f"gate: {'pass' if check.passed else 'FAIL'}  {check.says}"
    kept = "stay" if plan.found_after_rollback else "do not stay, unless they are tied to it"
    yield (
        "no stored vector is changed. `mixbct upgrade rollback` undoes the switch until `mixbct "
        f"gallery prune`; rows that {plan.query_model.name} enrols until then {kept} searchable"
    )


def _status_lines(status: GalleryStatus) -> Iterator[str]:
    last = status.switches[-1]
    yield f"{status.gallery}: searched by {status.query_model} since {last.time}"
    rows: list[Sequence[str]] = [("switch", "time", "model", "")]
    for each in status.switches:
        what = f"brings back switch {each.restores}" if each.restores else ""
        rows.append((f"{each.number}", each.time, str(each.model.contract), what))
    yield from columns(rows, whole=3)
    for stored in status.contracts:
        yield f"{stored.rows:,} of {status.rows:,} rows are of {stored.contract}"
    back = next((each for each in status.switches if each.number == last.before), None)
    brings = f"a rollback brings back {back.model.contract}" if back else None
    yield brings or "there is nothing to roll back to"
