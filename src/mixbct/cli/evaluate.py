"""What judges models: `mixbct eval`, `eval-pairs`, `eval-ijb`, `generations`, `gate`, `report`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer import Argument, Option

from mixbct.adapters import OF_STRANGERS
from mixbct.backbones.model import load_model
from mixbct.cli.options import Device, OtherClasses, Replicates, Resume, Seed, SkipBad
from mixbct.cli.output import name_skipped, progress_bar, tell
from mixbct.distributed import open_device
from mixbct.errors import CheckpointError, RecipeError, ResultError
from mixbct.evaluation.gate import GateSettings, judge, training_says
from mixbct.evaluation.worth import worth
from mixbct.features.extract import open_embedder
from mixbct.files import write_atomically
from mixbct.report import tables
from mixbct.report.page import write_report
from mixbct.schemas.bridge import load_bridge
from mixbct.schemas.gate import GateOutcome
from mixbct.schemas.protocols import ProtocolResult
from mixbct.schemas.record import made_of, one_line, read_record, record_there
from mixbct.schemas.result import ModelCost, Result, tar_name
from mixbct.workflows.evaluate import HeldOutSet, bank_with_labels, evaluate_models
from mixbct.workflows.generations import compare_generations
from mixbct.workflows.protocols import Sides, evaluate_ijb, evaluate_pairs
from mixbct.workflows.verdict import beside, decide

ResultPath = Annotated[Path, Argument(help="A result.json, as `mixbct eval` writes it.")]
_ADAPTERS = ", ".join(OF_STRANGERS)

Model = Annotated[Path, Option(help="The model's folder or run; in a cross-test the new one.")]
GalleryModel = Annotated[Path | None, Option(help="The gallery's model in a cross-test: the old.")]
BridgeFile = Annotated[
    Path | None, Option(help="A bridge from the model to the gallery model, as `adapt` writes it.")
]
Flip = Annotated[bool, Option("--flip", help="Sum features with the flipped image's.")]
ResultOut = Annotated[Path | None, Option("--out", help="Also write the result there.")]
_CROSS_TEST = ("--model", "NEW", "--gallery-model", "OLD")


def evaluate(
    old: Annotated[Path, Option(help="The old model's folder or run, or a bank of its vectors.")],
    new: Annotated[Path, Option(help="The new model's folder or run, or a bank of its vectors.")],
    data: Path | None = Option(
        None, help="Images, or (for a head) its encoder's bank [the banks, where both are]."
    ),
    split: Path | None = Option(None, help="A split folder [all is a test set]."),
    independent: Path | None = Option(None, help="A model trained without regard to the old one."),
    via: list[Path] | None = Option(
        None, help="A model between old and new that its bridge leads to, newest first."
    ),
    bridge: Path | None = Option(
        None, help="A bridge from new to old (`adapt`), in the place of the model's own."
    ),
    adapter: list[str] | None = Option(
        None, help=f"Of an independent model's bridges [{_ADAPTERS}]."
    ),
    out: Path = Option(Path("result.json"), help="The file to write."),
    seed: Seed = 0,
    replicates: Replicates = 1000,
    backfill: bool = Option(
        False, "--backfill", help="Also find in which order old rows are best embedded again."
    ),
    device: Device = "cpu",
    other_classes: OtherClasses = False,
    skip_bad: SkipBad = False,
    resume: Resume = False,
) -> None:
    """Compare old and new on the split's queries and gallery, with intervals over classes.

    Two banks of the same test items need no more: without a split, 30 % of each class are queries.
    Beside the new model stands what costs less: the old model alone behind whitening, both queries
    as one, an independent model behind bridges. These are fitted on the split's training part.
    Refuses to where a model was trained on a test class, going by its name.
    """
    adapters = adapter or list(OF_STRANGERS)
    if unknown := sorted(set(adapters).difference(OF_STRANGERS)):
        raise RecipeError(f"--adapter {unknown[0]}: choose one of {_ADAPTERS}")
    folders = {"old": old, "new": new} | ({"independent": independent} if independent else {})
    data = data or bank_with_labels(new, old)
    held_out = HeldOutSet(data, split, skip_bad=skip_bad, other_classes=other_classes)
    result = evaluate_models(
        held_out,
        *(open_embedder(folder, device) for folder in folders.values()),
        title=data.name,
        seed=seed,
        replicates=replicates,
        adapters=adapters,
        via=[open_embedder(folder, device) for folder in via or []],
        bridge=load_bridge(bridge) if bridge else None,
        backfill=backfill,
        costs={
            role: cost
            for role, folder in folders.items()
            if (cost := record_there(folder / "cost.json", ModelCost, CheckpointError, "cost"))
        },
        earlier=out if resume else None,
        device=open_device(device),
        stage=progress_bar,
    )
    write_atomically(out, result.to_json())
    name_skipped(sorted(held_out.left_out))
    left_out = (one_line(f"{n} is left out: {why}") for n, why in result.left_out.items())
    trained = training_says(result.trained_apart)
    said = *left_out, *tables.flip_lines(result), *tables.backfill_lines(result), trained
    tell(result, worth(result).says, tables.results_table(result), *said, then=("gate", out))


def generations(
    models: Annotated[
        list[Path],
        Argument(metavar="V1 V2 ...", help="Folders or runs of the versions, oldest first."),
    ],
    data: Annotated[Path, Option(help="A folder of class folders, or an image array.")],
    split: Annotated[Path, Option(help="A split folder.")],
    bridge: list[Path] | None = Option(
        None, help="A bridge between two of them, in the place of the models' own."
    ),
    out: Path = Option(Path("generations.json"), help="The file to write."),
    seed: Seed = 0,
    replicates: Replicates = 1000,
    device: Device = "cpu",
    other_classes: OtherClasses = False,
    skip_bad: SkipBad = False,
) -> None:
    """Compare every version's queries with the galleries of all versions before it."""
    held_out = HeldOutSet(data, split, skip_bad=skip_bad, other_classes=other_classes)
    versions = [load_model(path, device) for path in models]
    bridges = [load_bridge(path) for path in bridge or []]
    found = compare_generations(
        held_out, versions, bridges, seed, replicates, open_device(device), progress_bar
    )
    write_atomically(out, found.to_json())
    name_skipped(sorted(held_out.left_out))
    shown = (tables.generations_table(found, metric) for metric in found.summary)
    then = ("eval", "--old", models[-2], "--new", models[-1], "--data", data, "--split", split)
    tell(found, *shown, training_says(found.trained_apart), then=then)


def gate(
    result: ResultPath,
    gain: list[str] | None = Option(None, help="A metric that must gain [mAP, rank-1, TAR@1e-3]."),
    against: str = Option(
        "old",
        help="Better than what: `old`, as deployed, or the `best` of it and the old model "
        "alone, whitened.",
    ),
    margin: float = Option(
        0.03, help="How much TAR@1e-4, or a figure at its ceiling, may lose (0.03: 3 points)."
    ),
    self_test_loss: float = Option(
        0.015, help="What mAP new/new may lose to the independent model."
    ),
    far_tolerance: float = Option(
        2.0, help="How many times its rate the carried-over threshold may accept."
    ),
    max_flips: float | None = Option(
        None,
        metavar="SHARE",
        help="How many queries may be right before and wrong now (0.02: 2 %) [any].",
    ),
    far: list[float] | None = Option(
        None, help="A false-accept rate to set thresholds for; the first is the edge's [0.001]."
    ),
) -> None:
    """Decide whether the new model may search the old gallery. Exit 0: yes, 1: no.

    Writes gate.json beside the result, and edge.json if it passed; for a result that is not
    called result.json, NAME.gate.json and NAME.edge.json.
    """
    asked: dict[str, Any] = {"against": against, "margin": margin, "max_flips": max_flips}
    asked |= {"self_test_loss": self_test_loss, "far_tolerance": far_tolerance}
    asked |= ({"gains": gain} if gain else {}) | ({"fars": far} if far else {})
    settings = made_of(GateSettings, RecipeError, "the gate", asked)
    found = read_record(result, Result, ResultError, "result")
    outcome = decide(result, found, settings)
    said = [f"{'pass' if check.passed else 'FAIL'}  {check.says}" for check in outcome.checks]
    if outcome.beside:
        said.append("is it worth more than the old model alone, whitened? (decides nothing)")
    said += [f"{'yes' if check.passed else 'no':4}  {check.says}" for check in outcome.beside]
    said += tables.threshold_lines(outcome)
    said += filter(None, (outcome.training, tables.verdict_line(outcome, found)))
    said += tables.remedies(outcome)
    then: tuple[str | Path, ...] = ("report", result)
    if outcome.passed:
        said.append("(a new gallery begins with `mixbct gallery init GALLERY --model OLD_MODEL`)")
        then = ("upgrade", "plan", "GALLERY", "NEW_MODEL", "--edge", beside(result, "edge.json"))
    tell(outcome, *said, then=then)
    if not outcome.passed:
        raise typer.Exit(1)


def report(
    result: ResultPath,
    out: Path | None = Option(None, help="The page to write [report.html beside it]."),
) -> None:
    """Write the offline HTML page of a result."""
    found = read_record(result, Result, ResultError, "result")
    page = out or beside(result, "report.html")
    outcome = judge(found)
    # what the gate decided, perhaps under other settings, is what the page must say
    decided = record_there(beside(result, "gate.json"), GateOutcome, ResultError, "gate outcome")
    if decided and decided.result_digest == outcome.result_digest:
        outcome = decided
    write_report(page, found, outcome)
    tell(outcome, tables.verdict_line(outcome, found), f"report: {page}", then=("gate", result))


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
    found = evaluate_pairs(pairs, _sides(model, gallery_model, bridge, flip, device), data)
    head = (
        f"accuracy {found.accuracy:.4f} ± {found.accuracy_deviation:.4f} over "
        f"{len(found.folds)} folds, AUC {found.verification.auc:.4f}"
    )
    table = _written(found, out, {})
    tell(found, head, table, then=("eval-pairs", *_CROSS_TEST, "--pairs", pairs))


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
